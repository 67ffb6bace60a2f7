"""Which detections of rotated boxes are right, by the rules of VOC and of DOTA's development kit.

By falling score, a detection is compared with the instance that it overlaps most. It is right if
the exact overlap is above the threshold and the instance was not found before; it counts as
neither right nor wrong if that instance is a difficult one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.rotated_iou import enclosing_boxes, rotated_iou
from training.evaluation.image_pairs import Indices, meeting, pairs_of_images
from training.evaluation.instances import Found, Ints, Truth

_Bools = NDArray[np.bool_]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankedDetections:
    """The m detections of one class, best first, and its n instances.

    `scores` [m]; `areas` [m] in square pixels; `nearest` [m]: the instance that each overlaps most,
    0 where it meets none; `overlaps` [m]: how much, 0 where it meets none. `ignored` [n]: difficult
    instances; `instance_areas` [n].
    """

    scores: NDArray[np.float32]
    areas: _Floats
    nearest: Indices
    overlaps: _Floats
    ignored: _Bools
    instance_areas: _Floats

    def curve(
        self, threshold: float, size: tuple[float, float] | None = None
    ) -> tuple[_Floats, _Floats] | None:
        """Recall and precision after each detection [m]; None where there is nothing to be found.

        `size`: only instances with areas in that range, both ends included, are to be found. As
        COCO has it, the others count as difficult, and a detection whose own area is outside of
        the range is not wrong.
        """
        ignored, may_be_wrong = self.ignored, np.ones(len(self.scores), np.bool_)
        if size is not None:
            ignored = ignored | ~_within(self.instance_areas, size)
            may_be_wrong = _within(self.areas, size)
        num_wanted = int((~ignored).sum())
        if not num_wanted:
            return None
        right, wrong = _judged(self.nearest, self.overlaps > threshold, ignored)
        num_right = np.cumsum(right, dtype=np.float64)
        num_judged = num_right + np.cumsum(wrong & may_be_wrong)
        return num_right / num_wanted, num_right / np.maximum(num_judged, 1)


class _Placed(NamedTuple):
    """Boxes [n, 5], and in which image each is [n]."""

    images: Ints
    boxes: NDArray[np.floating]


def ranked_by_label(truth: Truth, found: Found, num_classes: int) -> dict[int, RankedDetections]:
    """What was found of every label of which there is an instance to be found."""
    return {
        label: _ranked(truth, found, label)
        for label in range(num_classes)
        if not truth.ignored[truth.labels == label].all()
    }


def _ranked(truth: Truth, found: Found, label: int) -> RankedDetections:
    """Equal scores keep their order."""
    instances = np.flatnonzero(truth.labels == label)
    rows = np.flatnonzero(found.labels == label)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    boxes = found.boxes[rows]
    nearest, overlaps = _nearest(
        _Placed(found.images[rows], boxes),
        _Placed(truth.images[instances], truth.boxes[instances]),
    )
    return RankedDetections(
        scores=found.scores[rows],
        areas=boxes[:, 2:4].astype(np.float64).prod(axis=1),
        nearest=nearest,
        overlaps=overlaps,
        ignored=truth.ignored[instances],
        instance_areas=truth.areas[instances],
    )


def _within(areas: _Floats, size: tuple[float, float]) -> _Bools:
    smallest, largest = size
    return (areas >= smallest) & (areas <= largest)


def _nearest(detections: _Placed, instances: _Placed) -> tuple[Indices, _Floats]:
    """For each of m detections the instance of its image that it overlaps most, and how much.

    -> indices [m], 0 where there is no instance; overlaps [m], 0 there.
    """
    nearest = np.zeros(len(detections.images), np.intp)
    overlaps = np.zeros(len(nearest))
    bounds, other_bounds = enclosing_boxes(detections.boxes), enclosing_boxes(instances.boxes)
    for row, column in pairs_of_images(detections.images, instances.images):
        meets = meeting(bounds[row], other_bounds[column])
        row, column = row[meets], column[meets]
        ratio = rotated_iou(detections.boxes[row], instances.boxes[column])
        # The best pair of each detection comes last; of equal ones, that of the first instance.
        order = np.lexsort((-column, ratio, row))
        last = order[np.flatnonzero(np.diff(row[order], append=-1))]
        nearest[row[last]], overlaps[row[last]] = column[last], ratio[last]
    return nearest, overlaps


def _judged(nearest: Indices, near: _Bools, ignored: _Bools) -> tuple[_Bools, _Bools]:
    """Which detections [m], best first, are right and which are wrong."""
    on_ignored = near & ignored[nearest]
    claims = np.flatnonzero(near & ~on_ignored)
    right = np.zeros(len(near), np.bool_)
    right[claims[np.unique(nearest[claims], return_index=True)[1]]] = True
    return right, ~right & ~on_ignored
