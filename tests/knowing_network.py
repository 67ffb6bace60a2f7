"""A network that recognises pictures of plain scenes and predicts what is annotated in them."""

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from model.config import STRIDES
from model.graph import Normalise
from model.heads.outputs import HeadOutputs
from tests.plain_scenes import scene
from training.data.indexing.detection_index import DetectionIndex
from training.data.synthetic.data_set import split_scenes

#: Sides of the pictures in pixels.
SIZE = 160


class KnowingNetwork(nn.Module):
    """Recognises pictures and gives predictions that decode to what is annotated in them.

    Boxes are off by `offset` pixels, and by `noise` at random, the same for the same picture.
    Instance i is drawn in channel i of the mask features, unless all kernels show another.
    """

    def __init__(
        self,
        index: DetectionIndex,
        *,
        offset: float = 0.0,
        noise: float = 0.0,
        shown_channel: int | None = None,
    ) -> None:
        super().__init__()
        self.shown_channel = shown_channel
        self.index = index
        self.offset = offset
        self.noise = noise
        self.scenes = list(split_scenes("val", len(index), size=SIZE, seed=0, draw=scene))
        normalise = Normalise()
        self.known = [
            normalise(torch.from_numpy(cv2.imread(str(index.image_path(p)))[None]))[0]
            for p in range(len(index))
        ]

    def forward(self, images: Tensor) -> HeadOutputs:
        rows = [self._outputs(self.position_of(image)) for image in images]

        def stacked(name: str) -> list[Tensor]:
            levels = [getattr(row, name) for row in rows]
            return [torch.stack(level) for level in zip(*levels, strict=True)]

        features = [row.mask_features for row in rows]
        return HeadOutputs(
            logits=stacked("logits"),
            distances=stacked("distances"),
            angles=stacked("angles"),
            kernels=stacked("kernels"),
            mask_features=None if features[0] is None else torch.stack(features),
        )

    def position_of(self, image: Tensor) -> int:
        """Where a normalised picture stands in the index."""
        [position] = [p for p, known in enumerate(self.known) if torch.allclose(known, image)]
        return position

    def _outputs(self, position: int) -> HeadOutputs:
        """Every instance at the cell of the finest level that is nearest to its centre."""
        task = self.index.task
        cells = [SIZE // stride for stride in STRIDES]
        outputs = HeadOutputs(
            logits=[torch.full((len(self.index.classes), n, n), -20.0) for n in cells],
            distances=[torch.ones(4, n, n) for n in cells],
            angles=[torch.zeros(1, n, n) for n in cells] if task == "rotated" else [],
            kernels=[torch.zeros(169, n, n) for n in cells] if task == "instance" else [],
            mask_features=torch.zeros(8, cells[0], cells[0]) if task == "instance" else None,
        )
        truth = self.index.evaluation_annotations(position)
        random = np.random.default_rng(position)
        moves = self.offset + self.noise * random.normal(size=truth.boxes.shape)
        if task == "rotated":
            moves[:, 4] = 0
        for row, box in enumerate((truth.boxes + moves).astype(np.float32)):
            centre = box[:2] if task == "rotated" else (box[:2] + box[2:]) / 2
            column, line = np.round(centre / STRIDES[0]).astype(int)
            x, y = column * STRIDES[0], line * STRIDES[0]
            outputs.logits[0][truth.labels[row], line, column] = 5.0
            outputs.distances[0][:, line, column] = torch.from_numpy(
                rotated_distances(box, x, y) if task == "rotated" else upright_distances(box, x, y)
            )
            if task == "rotated":
                outputs.angles[0][0, line, column] = float(box[4])
            if task == "instance":
                mask = self.scenes[position].masks[row].astype(np.float32)
                small = cv2.resize(mask, (cells[0], cells[0]), interpolation=cv2.INTER_AREA)
                outputs.mask_features[row] = torch.from_numpy(small)
                shown = row if self.shown_channel is None else self.shown_channel
                outputs.kernels[0][:, line, column] = kernel_that_shows(shown)
        return outputs


def upright_distances(box, x, y) -> np.ndarray:
    return np.array([x - box[0], y - box[1], box[2] - x, box[3] - y], np.float32)


def rotated_distances(box, x, y) -> np.ndarray:
    cos, sin = np.cos(box[4]), np.sin(box[4])
    along = (x - box[0]) * cos + (y - box[1]) * sin
    across = (y - box[1]) * cos - (x - box[0]) * sin
    half_w, half_h = box[2] / 2, box[3] / 2
    return np.array([half_w + along, half_h + across, half_w - along, half_h - across], np.float32)


def kernel_that_shows(channel: int) -> Tensor:
    """A mask network that gives 20 * feature - 10: all weights, then all biases."""
    first, second, third = torch.zeros(8, 10), torch.zeros(8, 8), torch.zeros(1, 8)
    first[0, 2 + channel] = 1
    second[0, 0] = 1
    third[0, 0] = 20
    biases = torch.zeros(17)
    biases[-1] = -10
    return torch.cat([first.flatten(), second.flatten(), third.flatten(), biases])
