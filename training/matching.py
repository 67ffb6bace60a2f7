"""Which predictions of a batch learn which instances: the assignment, image by image.

The criterion calls it with detached or attached outputs alike; no gradient passes through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from model.boxes import decode_boxes, decode_rotated_boxes, input_priors
from model.config import STRIDES
from model.heads.outputs import HeadOutputs
from training.assignment import assign
from training.targets import Targets


@dataclass(frozen=True, eq=False)
class Positives:
    """The k priors of a batch that learn an instance, image by image, ascending in each.

    `images`, `priors` (counted over all levels, finest first) and `instances` (rows of the
    batch's targets) int64 [k]; `overlaps` float32 [k]: target score and weight. Image i owns the
    next `counts[i]`.
    """

    images: Tensor
    priors: Tensor
    instances: Tensor
    overlaps: Tensor
    counts: tuple[int, ...]


@torch.no_grad()
def match(outputs: HeadOutputs, targets: Targets, *, topk: int) -> Positives:
    """Assign the priors of every image. `topk` is that of `training.assignment.assign`."""
    priors = priors_of(outputs)
    assignments = []
    for image, of_image in enumerate(targets):
        boxes = decode(
            priors,
            _of_image(outputs.distances, image),
            _of_image(outputs.angles, image) if outputs.angles else None,
        )
        logits = _of_image(outputs.logits, image)
        assignments.append(assign(priors, logits, boxes, of_image, topk=topk))
    counts = tuple(len(each.priors) for each in assignments)
    first_rows = [sum(targets.counts[:image]) for image in range(len(counts))]
    device = priors.device
    return Positives(
        images=torch.arange(len(counts), device=device).repeat_interleave(
            torch.tensor(counts, device=device), output_size=sum(counts)
        ),
        priors=torch.cat([each.priors for each in assignments]),
        instances=torch.cat(
            [each.instances + row for each, row in zip(assignments, first_rows, strict=True)]
        ),
        overlaps=torch.cat([each.overlaps for each in assignments]),
        counts=counts,
    )


class LevelPositives(NamedTuple):
    """Those of one level: their rows in `Positives`, and where in the level's maps they stand."""

    rows: Tensor
    images: Tensor
    map_rows: Tensor
    map_columns: Tensor

    def gather(self, maps: Tensor) -> Tensor:
        """Predictions [n, c, h, w] at the m positives: [m, c]."""
        return maps.permute(0, 2, 3, 1)[self.images, self.map_rows, self.map_columns]


def by_level(positives: Positives, outputs: HeadOutputs) -> list[LevelPositives]:
    """The positives of every level, finest first."""
    levels = []
    start = 0
    for logits in outputs.logits:
        height, width = logits.shape[-2:]
        stop = start + height * width
        on_level = (positives.priors >= start) & (positives.priors < stop)
        rows = on_level.nonzero().squeeze(1)
        cells = positives.priors[rows] - start
        levels.append(
            LevelPositives(
                rows,
                positives.images[rows],
                cells.div(width, rounding_mode="floor"),
                cells.remainder(width),
            )
        )
        start = stop
    return levels


def priors_of(outputs: HeadOutputs) -> Tensor:
    """The priors of all levels, [p, 3] of (x, y, stride)."""
    finest = outputs.logits[0]
    height, width = (cells * STRIDES[0] for cells in finest.shape[-2:])
    return _priors(height, width, finest.device)


@lru_cache(maxsize=8)
def _priors(height: int, width: int, device: torch.device) -> Tensor:
    return input_priors((height, width)).to(device)


def decode(priors: Tensor, distances: Tensor, angles: Tensor | None) -> Tensor:
    """Boxes [4, p] xyxy, not clamped, from distances [4, p]; with angles [1, p] rotated, [5, p]."""
    points = priors[:, :2].T
    if angles is None:
        return decode_boxes(points, distances[None])[0]
    return decode_rotated_boxes(points, distances[None], angles[None])[0]


def _of_image(levels: Sequence[Tensor], image: int) -> Tensor:
    """The levels' maps [n, c, h, w] of one image, as columns of priors: [c, p]."""
    return torch.cat([level[image].flatten(1) for level in levels], dim=1)
