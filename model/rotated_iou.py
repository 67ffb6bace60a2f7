"""Exact intersection over union of rotated boxes, pair by pair, in numpy.

A rotated box is (cx, cy, w, h, angle): pixels and radians, clockwise positive with y pointing down.
Suppression, evaluation and tracking compare rotated boxes through this module.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Pairs computed at a time, so that the working arrays of [4, pairs] stay in the processor's cache.
_PAIRS_PER_CHUNK = 2048
#: The second box is shrunk by this much, so that edges of equal boxes never coincide.
_RELATIVE_SHRINK = 1e-9
#: Stands for a direction component of zero, so that a parallel edge divides to a huge number.
_PARALLEL = 1e-200
#: The edges of a box come in two pairs; this exchanges the pairs of both boxes.
_OTHER_PAIR = [1, 0, 3, 2]


def rotated_corners(boxes: ArrayLike) -> NDArray[np.float64]:
    """Corners [N, 4, 2] of rotated boxes [N, 5], in pixels.

    They go round clockwise as seen on the screen, from the corner that is top left at angle 0.
    """
    cx, cy, width, height, angle_rad = np.asarray(boxes, np.float64).reshape(-1, 5).T
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    centre = np.stack([cx, cy], axis=-1)
    across = np.stack([cos, sin], axis=-1) * (width / 2)[:, None]
    down = np.stack([-sin, cos], axis=-1) * (height / 2)[:, None]
    corners = [
        centre - across - down,
        centre + across - down,
        centre + across + down,
        centre - across + down,
    ]
    return np.stack(corners, axis=1)


def enclosing_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """The smallest upright boxes [N, 4], xyxy in pixels, around rotated boxes [N, 5]."""
    cx, cy, width, height, angle_rad = np.asarray(boxes, np.float64).reshape(-1, 5).T
    cos, sin = np.abs(np.cos(angle_rad)), np.abs(np.sin(angle_rad))
    half_x, half_y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return np.stack([cx - half_x, cy - half_y, cx + half_x, cy + half_y], axis=-1)


def rotated_iou(boxes_a: ArrayLike, boxes_b: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union [N] of the pairs boxes_a [N, 5], boxes_b [N, 5], within 1e-7.

    A box whose width or height is not positive is empty: its ratio with any other box is 0.
    """
    first = np.asarray(boxes_a, np.float64).reshape(-1, 5)
    second = np.asarray(boxes_b, np.float64).reshape(-1, 5)
    if len(first) != len(second):
        raise ValueError(f"boxes are compared pair by pair, not {len(first)} with {len(second)}")
    ratio = np.empty(len(first))
    for start in range(0, len(first), _PAIRS_PER_CHUNK):
        chunk = slice(start, start + _PAIRS_PER_CHUNK)
        ratio[chunk] = _chunk_iou(first[chunk], second[chunk])
    return ratio


def _chunk_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = first.T.copy(), second.T.copy()
    np.maximum(a[2:4], 0, out=a[2:4])
    np.maximum(b[2:4], 0, out=b[2:4])
    area_a, area_b = a[2] * a[3], b[2] * b[3]
    # Rounding may leave the sum a little below 0 or above the smaller box.
    intersection = np.clip(_intersection_area(a, b), 0, np.minimum(area_a, area_b))
    union = area_a + area_b - intersection
    return intersection / np.where(union > 0, union, 1)


def _intersection_area(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area [N] common to the boxes a [5, N] and b [5, N].

    By Green's theorem the area is half the sum, over the eight edges, of the length that lies
    inside the other box times the distance of the edge's line from the origin, positive where the
    origin lies inside. So neither corners nor their order are needed. The origin is a's centre.
    """
    a_half_w, a_half_h = a[2:4] / 2
    b_half_w, b_half_h = b[2:4] * ((1 - _RELATIVE_SHRINK) / 2)
    a_cos, a_sin = np.cos(a[4]), np.sin(a[4])
    cos, sin = np.cos(b[4] - a[4]), np.sin(b[4] - a[4])
    # The centre of b along the axes of a, then along its own.
    shift_x, shift_y = b[0] - a[0], b[1] - a[1]
    x, y = shift_x * a_cos + shift_y * a_sin, shift_y * a_cos - shift_x * a_sin
    u, v = x * cos + y * sin, y * cos - x * sin

    # Four pairs of parallel edges [4, N]: of b in the frame of a (along its width, along its
    # height), then of a in the frame of b. The other pair of a box points along the normal.
    half_length = np.stack([b_half_w, b_half_h, a_half_w, a_half_h])
    direction_x = np.stack([cos, -sin, cos, sin])
    direction_y = np.stack([sin, cos, -sin, cos])
    to_edge = half_length[_OTHER_PAIR]
    to_edge_x, to_edge_y = to_edge * direction_x[_OTHER_PAIR], to_edge * direction_y[_OTHER_PAIR]
    centre_x, centre_y = np.stack([x, x, -u, -u]), np.stack([y, y, -v, -v])
    centre_distance = np.stack([v, u, np.zeros_like(u), np.zeros_like(u)])
    clip_x = np.stack([a_half_w, a_half_w, b_half_w, b_half_w])
    clip_y = np.stack([a_half_h, a_half_h, b_half_h, b_half_h])
    inverse_x, inverse_y = _reciprocal(direction_x), _reciprocal(direction_y)

    area = np.zeros_like(x)
    for side in (1.0, -1.0):
        middle_x, middle_y = centre_x + side * to_edge_x, centre_y + side * to_edge_y
        # Where the edge's line crosses the two slabs whose common part is the other box.
        x_one, x_two = (clip_x - middle_x) * inverse_x, (-clip_x - middle_x) * inverse_x
        y_one, y_two = (clip_y - middle_y) * inverse_y, (-clip_y - middle_y) * inverse_y
        enters = np.maximum(np.minimum(x_one, x_two), np.minimum(y_one, y_two))
        leaves = np.minimum(np.maximum(x_one, x_two), np.maximum(y_one, y_two))
        inside = np.minimum(leaves, half_length) - np.maximum(enters, -half_length)
        distance = to_edge + side * centre_distance
        area += (np.maximum(inside, 0) * distance).sum(axis=0)
    return area / 2


def _reciprocal(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / np.where(np.abs(direction) < _PARALLEL, _PARALLEL, direction)
