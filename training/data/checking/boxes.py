"""Boxes of one image compared with one another and with the image. Boxes are xyxy in pixels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.rotated_iou import rotated_iou

#: Boxes of more than this overlap are taken for the same.
SAME_IOU = 0.9
#: A box is compared with so many that lie next to it, from left to right, at most.
_MOST_COMPARED = 1000


class Pair(NamedTuple):
    """Two instances of an image, by position, of which `second` stands later."""

    first: int
    second: int


def same_pairs(boxes: NDArray[np.floating]) -> list[Pair]:
    """Boxes [n, 4], or rotated ones [n, 5], that overlap an earlier one by more than `SAME_IOU`.

    Each stands as `second` once: with the first of its exact copies, else with the earliest.
    """
    boxes = boxes.astype(np.float64)
    equal, kept = _equal_pairs(boxes)
    earliest = dict(equal)
    for rows, others in _neighbours(boxes[kept]):
        rows, others = kept[rows], kept[others]
        same = _overlaps(boxes[rows], boxes[others]) > SAME_IOU
        for pair in zip(rows[same].tolist(), others[same].tolist(), strict=True):
            first, second = min(pair), max(pair)
            earliest[second] = min(first, earliest.get(second, first))
    return sorted(Pair(first, second) for second, first in earliest.items())


def _equal_pairs(boxes: NDArray[np.float64]) -> tuple[dict[int, int], NDArray[np.int64]]:
    """Positions to those of the first box of the same numbers, and the positions of all first ones.

    Exact copies are no work for the search, where thousands of them would be compared in pairs.
    """
    _, first, group = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
    first_of_each = first[group.ravel()]
    copies = np.flatnonzero(first_of_each != np.arange(len(boxes)))
    pairs = zip(copies.tolist(), first_of_each[copies].tolist(), strict=True)
    return dict(pairs), np.sort(first).astype(np.int64)


def _neighbours(
    boxes: NDArray[np.float64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and others that may overlap so much: they have nearly one centre and one area."""
    if boxes.shape[1] == 5:
        centres, sides = boxes[:, :2], boxes[:, 2:4]
    else:
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    area, reach = sides.prod(axis=1), sides.max(axis=1) / 4
    order = np.argsort(centres[:, 0], kind="stable")
    x = centres[order, 0]
    ends = np.searchsorted(x, x + reach[order], side="right")
    places = np.arange(len(boxes))
    for step in range(1, min(_MOST_COMPARED, len(boxes) - 1) + 1):
        places = places[places + step < ends[places]]
        if not len(places):
            return
        rows, others = order[places], order[places + step]
        is_near = np.abs(centres[others, 1] - centres[rows, 1]) <= reach[rows]
        is_near &= np.abs(area[others] - area[rows]) <= 0.2 * area[rows]
        yield rows[is_near], others[is_near]


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU [n] of each box of `a` with the one of `b` beside it."""
    if not len(a):
        return np.zeros(0)
    if a.shape[1] == 5:
        return np.asarray(rotated_iou(a, b))
    return _iou(a, b)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    return float(_iou(np.array([a]), np.array([b]))[0])


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    area_a, area_b = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b))
    joined = area_a + area_b - shared
    return np.where(joined > 0, shared / np.where(joined > 0, joined, 1), 0.0)


def share_inside(box_xyxy: tuple[float, ...], height: int, width: int) -> float:
    """Which share of a box lies in the image, from 0 to 1."""
    left, top, right, bottom = box_xyxy
    inside = max(min(right, width) - max(left, 0), 0) * max(min(bottom, height) - max(top, 0), 0)
    area = (right - left) * (bottom - top)
    return inside / area if area > 0 else 0.0


def overhang(box_xyxy: tuple[float, ...], height: int, width: int) -> float:
    """By how many pixels a box reaches out of the image, where it does so most."""
    left, top, right, bottom = box_xyxy
    return max(-left, -top, right - width, bottom - height, 0.0)
