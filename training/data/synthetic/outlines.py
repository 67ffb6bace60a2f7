"""Outlines of the shapes of synthetic scenes: polygons that fill the unit square, drawn anew each
time, so that no two stars are alike.

A shape's long side lies along x. `framed` lays an outline into a rotated box.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.rotated_iou import rotated_corners
from training.data.annotations import Floats

_Points = NDArray[np.float64]

#: What a label means.
SHAPE_NAMES = ("rectangle", "ellipse", "triangle", "star", "cross", "crescent")

#: How much longer than wide each shape is, so that its angle is defined.
ASPECTS = ((1.4, 2.8), (1.4, 2.6), (1.4, 2.4), (1.3, 1.8), (1.3, 2.0), (1.5, 2.4))

#: A multiple of four, so that a curve touches all sides of its box.
_POINTS_OF_A_CURVE = 40


def outline(label: int, random: np.random.Generator) -> _Points:
    """Points [k, 2] of a shape of that class; both coordinates span 0 to 1 exactly."""
    return _filling_the_square(_DRAWN[label](random))


def framed(points: _Points, rotated_box: Floats) -> Floats:
    """An outline [k, 2] of the unit square, laid into a rotated box [5]."""
    top_left, top_right, _, bottom_left = rotated_corners(rotated_box)[0]
    along, across = points[:, :1], points[:, 1:]
    laid = top_left + along * (top_right - top_left) + across * (bottom_left - top_left)
    return laid.astype(np.float32)


def _filling_the_square(points: _Points) -> _Points:
    return (points - points.min(axis=0)) / np.ptp(points, axis=0)


def _circle(turns: NDArray[np.floating]) -> _Points:
    return np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _rectangle(_random: np.random.Generator) -> _Points:
    return np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64)


def _ellipse(_random: np.random.Generator) -> _Points:
    return _circle(np.arange(_POINTS_OF_A_CURVE) / _POINTS_OF_A_CURVE * 2 * np.pi)


def _triangle(random: np.random.Generator) -> _Points:
    return np.array([(0, 0), (1, random.uniform(0.35, 0.65)), (0, 1)], np.float64)


def _star(random: np.random.Generator) -> _Points:
    radius = np.where(np.arange(10) % 2 == 0, 1.0, random.uniform(0.36, 0.48))
    return radius[:, None] * _circle(np.arange(10) / 10 * 2 * np.pi)


def _cross(random: np.random.Generator) -> _Points:
    arm = random.uniform(0.26, 0.42)
    near, far = (1 - arm) / 2, (1 + arm) / 2
    quarter = [(near, 0), (far, 0), (far, near), (1, near), (1, far), (far, far)]
    return np.array([*quarter, *((1 - x, 1 - y) for x, y in quarter)], np.float64)


def _crescent(random: np.random.Generator) -> _Points:
    """What a second circle through both tips leaves of a disc."""
    tip_rad = random.uniform(0.9, 1.2)
    half = _POINTS_OF_A_CURVE // 2
    outer = np.linspace(tip_rad, 2 * np.pi - tip_rad, half)
    centre = random.uniform(0.75, 1.1)
    reach = np.hypot(np.cos(tip_rad) - centre, np.sin(tip_rad))
    inner_rad = np.arctan2(np.sin(tip_rad), np.cos(tip_rad) - centre)
    inner = np.linspace(2 * np.pi - inner_rad, inner_rad, half)[1:-1]
    points = np.concatenate([_circle(outer), reach * _circle(inner) + (centre, 0)])
    # Its tips lie at both ends of its long side.
    return points[:, ::-1]


_DRAWN: tuple[Callable[[np.random.Generator], _Points], ...] = (
    _rectangle,
    _ellipse,
    _triangle,
    _star,
    _cross,
    _crescent,
)
assert len(SHAPE_NAMES) == len(ASPECTS) == len(_DRAWN)
