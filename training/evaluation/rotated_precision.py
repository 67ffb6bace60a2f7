"""Average precision of rotated boxes, by the rules of VOC and of DOTA's development kit.

By falling score, a detection is compared with the instance that it overlaps most. It is right if
the exact overlap is above the threshold and the instance was not found before; it counts as
neither right nor wrong if that instance is a difficult one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.rotated_iou import enclosing_boxes, rotated_iou
from training.evaluation.instances import Found, Ints, Truth

#: Overlaps over which COCO's mean is taken.
_THRESHOLDS = np.arange(50, 100, 5) / 100

#: Pairs of boxes looked at together; this bounds the memory.
_MAX_PAIRS = 2**20

_Bools = NDArray[np.bool_]
_Floats = NDArray[np.float64]
_Indices = NDArray[np.intp]


class _Placed(NamedTuple):
    """Boxes [n, 5], and in which image each is [n]."""

    images: Ints
    boxes: NDArray[np.floating]


def rotated_precision(truth: Truth, found: Found, num_classes: int) -> dict[int, dict[str, float]]:
    """Average precisions of every label of which there is an instance to be found, as fractions.

    `ap` (0.50:0.95), `ap50`, `ap75` by the area under the curve, and `ap50_voc07` at eleven
    recalls, as DOTA's figures are.
    """
    figures = {label: _figures(truth, found, label) for label in range(num_classes)}
    return {label: of_class for label, of_class in figures.items() if of_class}


def _figures(truth: Truth, found: Found, label: int) -> dict[str, float]:
    instances = np.flatnonzero(truth.labels == label)
    num_wanted = int((~truth.ignored[instances]).sum())
    if not num_wanted:
        return {}
    rows = np.flatnonzero(found.labels == label)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    nearest, overlaps = _nearest(
        _Placed(found.images[rows], found.boxes[rows]),
        _Placed(truth.images[instances], truth.boxes[instances]),
    )
    ignored = truth.ignored[instances]
    curves = [
        _curve(*_judged(nearest, overlaps > threshold, ignored), num_wanted)
        for threshold in _THRESHOLDS
    ]
    areas = [_area_under(*curve) for curve in curves]
    return {
        "ap": float(np.mean(areas)),
        "ap50": areas[0],
        "ap75": areas[5],
        "ap50_voc07": _eleven_points(*curves[0]),
    }


def _nearest(detections: _Placed, instances: _Placed) -> tuple[_Indices, _Floats]:
    """For each of m detections the instance of its image that it overlaps most, and how much.

    -> indices [m], 0 where there is no instance; overlaps [m], 0 there.
    """
    nearest = np.zeros(len(detections.images), np.intp)
    overlaps = np.zeros(len(nearest))
    for row, column in _meeting_pairs(detections, instances):
        ratio = rotated_iou(detections.boxes[row], instances.boxes[column])
        # The best pair of each detection comes last; of equal ones, that of the first instance.
        order = np.lexsort((-column, ratio, row))
        last = order[np.flatnonzero(np.diff(row[order], append=-1))]
        nearest[row[last]], overlaps[row[last]] = column[last], ratio[last]
    return nearest, overlaps


def _meeting_pairs(detections: _Placed, instances: _Placed) -> Iterator[tuple[_Indices, _Indices]]:
    """Pairs of one image whose enclosing upright boxes meet; all of a detection's pairs at once."""
    by_image = np.argsort(instances.images, kind="stable")
    first = np.searchsorted(instances.images[by_image], detections.images, "left")
    counts = np.searchsorted(instances.images[by_image], detections.images, "right") - first
    bounds, other_bounds = enclosing_boxes(detections.boxes), enclosing_boxes(instances.boxes)
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _MAX_PAIRS, "right")))
        part = counts[start:stop]
        row = np.repeat(np.arange(start, stop), part)
        within = np.arange(len(row)) - np.repeat(ends[start:stop] - part - before, part)
        column = by_image[first[row] + within]
        ours, theirs = bounds[row], other_bounds[column]
        meets = (ours[:, :2] < theirs[:, 2:]) & (theirs[:, :2] < ours[:, 2:])
        keep = meets.all(axis=1)
        yield row[keep], column[keep]
        start = stop


def _judged(nearest: _Indices, near: _Bools, ignored: _Bools) -> tuple[_Bools, _Bools]:
    """Which detections [m], best first, are right and which are wrong."""
    on_ignored = near & ignored[nearest]
    claims = np.flatnonzero(near & ~on_ignored)
    right = np.zeros(len(near), np.bool_)
    right[claims[np.unique(nearest[claims], return_index=True)[1]]] = True
    return right, ~right & ~on_ignored


def _curve(right: _Bools, wrong: _Bools, num_wanted: int) -> tuple[_Floats, _Floats]:
    """Recall and precision after each detection [m]."""
    num_right = np.cumsum(right, dtype=np.float64)
    num_judged = num_right + np.cumsum(wrong)
    return num_right / num_wanted, num_right / np.maximum(num_judged, 1)


def _area_under(recall: _Floats, precision: _Floats) -> float:
    """The area under the curve whose precision at a recall is the best one from there on."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * best_from_here).sum())


def _eleven_points(recall: _Floats, precision: _Floats) -> float:
    """The mean of the best precisions from recalls 0, 0.1, ... 1 on (VOC 2007)."""
    return float(np.mean([precision[recall >= tenth / 10].max(initial=0) for tenth in range(11)]))
