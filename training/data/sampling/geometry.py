"""Affine maps [2, 3] of points, boxes and outlines; pure functions on arrays.

Coordinates are those of edges: pixel (i, j) covers [j, j + 1] x [i, i + 1], so that a picture of
width w is mirrored by x -> w - x and turned about (w / 2, h / 2).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.annotations import Floats

Affine = NDArray[np.float64]

_CORNERS = np.array([[0, 1], [2, 1], [2, 3], [0, 3]])


class Window(NamedTuple):
    """A rectangle in whole pixels: x from `left` up to `right`, y from `top` up to `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    def mirrored(self, width: int, height: int, *, across: bool, down: bool) -> "Window":
        """Where it lies after the picture of that size was mirrored along one or both axes."""
        left, top, right, bottom = self
        if across:
            left, right = width - right, width - left
        if down:
            top, bottom = height - bottom, height - top
        return Window(left, top, right, bottom)


def scaling(scale: float, offset_x: float, offset_y: float) -> Affine:
    """x -> scale x + offset."""
    return np.array([[scale, 0.0, offset_x], [0.0, scale, offset_y]])


def turning(angle_rad: float, centre_x: float, centre_y: float) -> Affine:
    """A turn about a point; positive is clockwise as seen, because y points down."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array(
        [
            [cos, -sin, centre_x - cos * centre_x + sin * centre_y],
            [sin, cos, centre_y - sin * centre_x - cos * centre_y],
        ]
    )


def mirroring(width: float, height: float, *, across: bool, down: bool) -> Affine:
    """x -> width - x, y -> height - y, or both, or neither."""
    return np.array(
        [
            [-1.0 if across else 1.0, 0.0, width if across else 0.0],
            [0.0, -1.0 if down else 1.0, height if down else 0.0],
        ]
    )


def then(first: Affine, second: Affine) -> Affine:
    """The map that does `first`, then `second`."""
    chained = second[:, :2] @ first
    chained[:, 2] += second[:, 2]
    return chained


def moved_points(points: NDArray, affine: Affine) -> NDArray[np.float64]:
    """Points [..., 2] (x, y), mapped."""
    return points @ affine[:, :2].T + affine[:, 2]


def moved_boxes(boxes_xyxy: Floats, affine: Affine) -> Floats:
    """Boxes [n, 4]: the upright boxes around the mapped ones."""
    corners = moved_points(boxes_xyxy[:, _CORNERS], affine)
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def moved_rotated_boxes(boxes: Floats, affine: Affine) -> Floats:
    """Rotated boxes [n, 5] under a map that keeps shapes; one that mirrors turns the angle's sign.

    Exact: nothing is fitted anew, and the angle is not brought into a range.
    """
    linear = affine[:, :2]
    determinant = float(np.linalg.det(linear))
    sign = 1.0 if determinant > 0 else -1.0
    # A map that mirrors is a mirror in x, which turns angles around, and then a turn.
    cos, sin = linear[0, 0] * sign, linear[1, 0] * sign
    # Half a turn more is the same box.
    turn = math.remainder(math.atan2(sin, cos), math.pi)
    moved = np.empty_like(boxes)
    moved[:, :2] = moved_points(boxes[:, :2], affine)
    moved[:, 2:4] = boxes[:, 2:4] * np.sqrt(abs(determinant))
    moved[:, 4] = sign * boxes[:, 4] + turn
    return moved


def clipped_boxes(boxes_xyxy: Floats, window: Window) -> Floats:
    """Boxes [n, 4] cut at the window's edges; those outside end up without area."""
    low = np.array([window.left, window.top] * 2, np.float32)
    high = np.array([window.right, window.bottom] * 2, np.float32)
    return np.clip(boxes_xyxy, low, high)


def have_area(boxes_xyxy: Floats) -> NDArray[np.bool_]:
    """Which boxes [n, 4] have any extent in both directions."""
    return (boxes_xyxy[:, 2] > boxes_xyxy[:, 0]) & (boxes_xyxy[:, 3] > boxes_xyxy[:, 1])


def centres_inside(boxes: Floats, window: Window) -> NDArray[np.bool_]:
    """Which rotated boxes [n, 5] have their centre in the window."""
    x, y = boxes[:, 0], boxes[:, 1]
    return (x >= window.left) & (x < window.right) & (y >= window.top) & (y < window.bottom)
