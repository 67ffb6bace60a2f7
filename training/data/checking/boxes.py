"""Boxes of one image compared with one another and with the image. Boxes are xyxy in pixels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.rotated_iou import rotated_iou

#: Boxes of more than this overlap are taken for the same.
SAME_IOU = 0.9
#: So many rows of the table of all pairs are computed at a time.
_ROWS_PER_CHUNK = 256


class Pair(NamedTuple):
    """Two instances of an image, by position, of which `second` stands later."""

    first: int
    second: int
    iou: float


def same_pairs(boxes: NDArray[np.floating]) -> Iterator[Pair]:
    """Pairs among boxes [n, 4], or rotated ones [n, 5], that overlap by more than `SAME_IOU`."""
    if len(boxes) < 2:
        return
    if boxes.shape[1] == 5:
        yield from _same_rotated(boxes.astype(np.float64))
        return
    for start in range(0, len(boxes), _ROWS_PER_CHUNK):
        overlaps = iou_table(boxes[start : start + _ROWS_PER_CHUNK], boxes)
        for row, column in zip(*np.nonzero(overlaps > SAME_IOU), strict=True):
            if column > row + start:
                yield Pair(int(row) + start, int(column), float(overlaps[row, column]))


def _same_rotated(boxes: NDArray[np.float64]) -> Iterator[Pair]:
    # Those that overlap so much have nearly one centre and one area.
    area, reach = boxes[:, 2] * boxes[:, 3], boxes[:, 2:4].max(axis=1)
    order = np.argsort(boxes[:, 0], kind="stable")
    ordered_x = boxes[order, 0]
    for place, row in enumerate(order.tolist()):
        stop = int(np.searchsorted(ordered_x, boxes[row, 0] + reach[row] / 4, side="right"))
        others = order[place + 1 : stop]
        near = np.abs(boxes[others, 1] - boxes[row, 1]) <= reach[row] / 4
        others = others[near & (np.abs(area[others] - area[row]) <= 0.2 * area[row])]
        overlaps = rotated_iou(np.repeat(boxes[row : row + 1], len(others), axis=0), boxes[others])
        for other, overlap in zip(others.tolist(), overlaps.tolist(), strict=True):
            if overlap > SAME_IOU:
                yield Pair(min(row, other), max(row, other), overlap)


def iou_table(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4]; 0 where both are empty."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b))
    joined = area_a[:, None] + area_b[None] - shared
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
