"""Greedy non-maximum suppression of upright and of rotated boxes, exact, in numpy.

Boxes are taken in blocks by falling score. A block is settled in itself, then what it keeps
strikes out the boxes after it, so boxes that are gone are not compared again; and ratios are
computed only for pairs whose upright bounds meet. Equal scores keep the order of the input.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.rotated_iou import enclosing_boxes, rotated_iou

#: Boxes per block. Larger blocks compare more boxes that fall anyway, smaller ones make more calls.
_BLOCK = 128
#: A block is smaller if it would be compared with the rest in more pairs: this bounds the memory.
_MAX_PAIRS = 2**20

Indices = NDArray[np.intp]
#: Left, top, right, bottom [4, N] of boxes, float32 or float64.
_Bounds = NDArray[np.floating]
#: Says of pairs of boxes, given as two lists of indices, whether they overlap too much.
_TooClose = Callable[[Indices, Indices], NDArray[np.bool_]]


def nms(
    boxes_xyxy: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    iou_threshold: float,
    *,
    class_agnostic: bool = False,
    max_kept: int | None = None,
) -> Indices:
    """Indices of the boxes [N, 4] that stay, best score first, at most `max_kept` of them.

    A box falls when its intersection over union with a better one of its class (of any class if
    `class_agnostic`) is above `iou_threshold`, from 0 to 1. Boxes without area neither fall nor
    strike out.

    Computed in float32 as published: classes are set apart by a shift of label * (largest
    coordinate + 1), whose rounding decides the closest calls. With negative coordinates, where
    classes could still meet after that shift, ours is wider.
    """
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    if len(boxes) and not class_agnostic:
        span = boxes.max() - min(boxes.min(), np.float32(0)) + np.float32(1)
        boxes = boxes + np.asarray(labels, np.float32)[:, None] * span
    bounds = np.ascontiguousarray(boxes.T)
    area = _areas(bounds[2] - bounds[0], bounds[3] - bounds[1])

    def too_close(a: Indices, b: Indices) -> NDArray[np.bool_]:
        common = _common_area(bounds, a, b)
        union = area[a] + area[b] - common
        return common / np.maximum(union, np.finfo(np.float32).tiny) > np.float32(iou_threshold)

    return _greedy(bounds, too_close, scores, max_kept)


def rotated_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    iou_threshold: float,
    *,
    class_agnostic: bool = False,
    max_kept: int | None = None,
) -> Indices:
    """As `nms`, for rotated boxes [N, 5]: (cx, cy, w, h, angle), pixels and radians.

    The ratio is exact (float64), and computed only where the area that the enclosing upright
    boxes share lets it reach the threshold.
    """
    rotated = np.asarray(boxes, np.float64).reshape(-1, 5)
    area = _areas(rotated[:, 2], rotated[:, 3])
    bounds = np.ascontiguousarray(enclosing_boxes(rotated).T)
    if len(rotated) and not class_agnostic:
        # Only the bounds are set apart, side by side, so that classes never meet.
        bounds[[0, 2]] += np.asarray(labels) * (bounds.max() - bounds.min() + 1)

    def too_close(a: Indices, b: Indices) -> NDArray[np.bool_]:
        areas = area[a] + area[b]
        common_at_most = np.minimum(_common_area(bounds, a, b), np.minimum(area[a], area[b]))
        result = common_at_most * (1 + iou_threshold) > iou_threshold * areas
        near = np.flatnonzero(result)
        result[near] = rotated_iou(rotated[a[near]], rotated[b[near]]) > iou_threshold
        return result

    return _greedy(bounds, too_close, scores, max_kept)


def _areas(width: _Bounds, height: _Bounds) -> _Bounds:
    return np.maximum(width, 0) * np.maximum(height, 0)


def _common_area(bounds: _Bounds, a: Indices, b: Indices) -> _Bounds:
    left, top, right, bottom = bounds
    width = np.minimum(right[a], right[b]) - np.maximum(left[a], left[b])
    height = np.minimum(bottom[a], bottom[b]) - np.maximum(top[a], top[b])
    return _areas(width, height)


def _greedy(
    bounds: _Bounds, too_close: _TooClose, scores: ArrayLike, max_kept: int | None
) -> Indices:
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    limit = len(order) if max_kept is None else max_kept
    kept = [order[:0]]
    num_kept = 0
    while len(order) and num_kept < limit:
        size = max(1, min(_BLOCK, _MAX_PAIRS // len(order)))
        block, order = order[:size], order[size:]
        block = block[_settle(_overlaps(block, block, bounds, too_close))]
        if len(order):
            order = order[~_overlaps(block, order, bounds, too_close).any(axis=0)]
        kept.append(block)
        num_kept += len(block)
    return np.concatenate(kept)[:limit]


def _overlaps(
    first: Indices, second: Indices, bounds: _Bounds, too_close: _TooClose
) -> NDArray[np.bool_]:
    """Which of `first` overlap which of `second` too much: [first, second].

    Of a block with itself only the pairs whose first box is the better one, above the diagonal.
    """
    left, top, right, bottom = bounds
    rows = first[:, None]
    result = left[rows] < right[second]
    result &= right[rows] > left[second]
    result &= top[rows] < bottom[second]
    result &= bottom[rows] > top[second]
    if first is second:
        result = np.triu(result, 1)
    meeting = np.flatnonzero(result)
    row, column = np.divmod(meeting, len(second))
    result.reshape(-1)[meeting] = too_close(first[row], second[column])
    return result


def _settle(by_better: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes of a block [n], best first, stay, given by whom each is overlapped [better, n].

    A box stays if no better box that itself stays overlaps it. Round k settles at least the first
    k boxes; when a round changes nothing, all are settled. In practice that takes a few rounds.
    """
    stays = np.ones(len(by_better), np.bool_)
    while True:
        before = stays
        stays = np.logical_not(by_better[before].any(axis=0))
        if np.array_equal(stays, before):
            return stays
