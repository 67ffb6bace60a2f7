"""Which detections of a set meet which instances, and how much they overlap. Torch-free.

Boxes and masks that are compared with an ignored instance (a crowd) are measured by the part of
them that lies inside it, as COCO does; rotated boxes always by intersection over union.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.config import Task
from model.rotated_iou import enclosing_boxes, rotated_iou
from training.evaluation.image_pairs import Indices, meeting, pairs_of_images
from training.evaluation.instances import Found, Truth

_Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """p pairs of a detection and an instance of one image: rows in `Found`, rows in `Truth`, and
    their overlaps, 0 to 1. Sorted by detection, of one detection by falling overlap."""

    detections: Indices
    instances: Indices
    overlaps: _Floats

    def where(self, keep: NDArray[np.bool_]) -> "Pairs":
        """Only those of the p pairs."""
        return Pairs(self.detections[keep], self.instances[keep], self.overlaps[keep])


def overlapping_pairs(task: Task, truth: Truth, found: Found, *, least: float) -> Pairs:
    """All pairs that overlap by at least `least` (above 0), of whichever classes.

    Masks are compared for instance models, rotated boxes for rotated ones, else boxes.
    """
    overlaps_of = _OVERLAPS[task]
    kept = [
        np.array([row, column, ratio])[:, ratio >= least]
        for row, column in _meeting_pairs(task, truth, found)
        for ratio in [overlaps_of(truth, found, row, column)]
    ]
    row, column, ratio = np.concatenate([np.zeros((3, 0)), *kept], axis=1)
    order = np.lexsort((column, -ratio, row))
    return Pairs(row[order].astype(np.intp), column[order].astype(np.intp), ratio[order])


def _meeting_pairs(task: Task, truth: Truth, found: Found) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of one image; where boxes are compared only those whose upright boxes meet."""
    upright = {"detect": np.asarray, "rotated": enclosing_boxes}.get(task)
    # Masks are compared image by image.
    detections = np.argsort(found.images, kind="stable")
    for place, column in pairs_of_images(found.images[detections], truth.images):
        row = detections[place]
        if upright is not None:
            meets = meeting(upright(found.boxes[row]), upright(truth.boxes[column]))
            row, column = row[meets], column[meets]
        yield row, column


def _box_overlaps(truth: Truth, found: Found, row: Indices, column: Indices) -> _Floats:
    ours, theirs = found.boxes[row].astype(np.float64), truth.boxes[column].astype(np.float64)
    sides = np.minimum(ours[:, 2:], theirs[:, 2:]) - np.maximum(ours[:, :2], theirs[:, :2])
    common = sides.clip(0).prod(axis=1)
    own = (ours[:, 2:] - ours[:, :2]).prod(axis=1)
    union = own + (theirs[:, 2:] - theirs[:, :2]).prod(axis=1) - common
    whole = np.where(truth.ignored[column], own, union)
    return common / np.where(whole > 0, whole, 1)


def _rotated_overlaps(truth: Truth, found: Found, row: Indices, column: Indices) -> _Floats:
    return rotated_iou(found.boxes[row], truth.boxes[column])


def _mask_overlaps(truth: Truth, found: Found, row: Indices, column: Indices) -> _Floats:
    """Image by image, because pycocotools compares all masks with all."""
    ratio = np.zeros(len(row))
    images = found.images[row]
    for image in np.unique(images):
        # Rows come image by image.
        start, stop = np.searchsorted(images, [image, image + 1])
        ours, theirs = np.unique(row[start:stop]), np.unique(column[start:stop])
        size = truth.image_sizes[truth.images[theirs[0]]].tolist()
        of_all: Any = coco_mask.iou(
            _run_lengths(found.masks, ours, size),
            _run_lengths(truth.masks, theirs, size),
            truth.ignored[theirs].astype(int).tolist(),
        )
        ratio[start:stop] = of_all[
            np.searchsorted(ours, row[start:stop]), np.searchsorted(theirs, column[start:stop])
        ]
    return ratio


def _run_lengths(masks: tuple[bytes, ...] | None, rows: Indices, size: list[int]) -> Any:
    assert masks is not None, "instance models have masks"
    return [{"size": size, "counts": masks[row]} for row in rows]


_OVERLAPS: Mapping[Task, Callable[[Truth, Found, Indices, Indices], _Floats]] = {
    "detect": _box_overlaps,
    "instance": _mask_overlaps,
    "rotated": _rotated_overlaps,
}
