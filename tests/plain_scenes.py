"""Synthetic pictures of simple shapes, which a small network learns within minutes.

A scene follows from its seed alone. Shapes lie on noise, do not overlap, stand out from what is
behind them, and are longer than wide, so that their angle is defined. Torch-free.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model.rotated_iou import rotated_corners
from training.data.synthetic.scenes import Scene

Floats = NDArray[np.float32]

#: What a label means.
SHAPE_NAMES = ("rectangle", "ellipse", "triangle", "star")

#: Lengths below are for a picture of this side, in pixels, and grow with it.
_NOMINAL_SIDE = 160
_LENGTHS = (26.0, 70.0)
_CENTRE_MARGIN = 18.0
_ASPECTS = (1.5, 2.6)

_MAX_SHAPES = 4
_TRIES_PER_SHAPE = 20
#: A shape differs from the mean of what it hides by this many grey levels in some channel.
_MIN_CONTRAST = 50.0
_TEXTURE_DEVIATION = 12.0

#: Wave lengths of the background in pixels, whatever the picture's size.
_OCTAVES = (4, 10, 28, 64)
_AMPLITUDES = (5.0, 22.0)
_OFFSETS = (60.0, 190.0)

#: Samples per pixel and axis that decide how much of a pixel a shape covers.
_SUPERSAMPLING = 8
#: Fractional bits of the coordinates that `cv2.fillPoly` takes.
_FRACTION_BITS = 4


class _Shape(NamedTuple):
    """One shape that may be painted; `coverage` [h, w] of its pixels is between 0 and 1."""

    label: int
    rotated_box: Floats
    polygon: Floats
    coverage: Floats
    colour: NDArray[np.float64]


def scene(seed: int, size: int = _NOMINAL_SIDE) -> Scene:
    """The scene of that seed, `size` x `size` pixels, with one to four shapes."""
    random = np.random.default_rng(seed)
    picture = _background(random, size)
    shapes = _placed_shapes(random, picture)
    for shape in shapes:
        texture = random.normal(0, _TEXTURE_DEVIATION, picture.shape) + shape.colour
        picture += shape.coverage[:, :, None] * (texture - picture)
    image = np.empty(picture.shape, np.uint8)
    cv2.GaussianBlur(np.clip(np.round(picture), 0, 255).astype(np.uint8), (3, 3), 0.6, dst=image)
    masks = np.stack([shape.coverage >= 0.5 for shape in shapes])
    return Scene(
        image=image,
        masks=masks,
        boxes=np.array([_box_of(mask) for mask in masks], np.float32),
        rotated_boxes=np.stack([shape.rotated_box for shape in shapes]),
        polygons=tuple(shape.polygon for shape in shapes),
        labels=np.array([shape.label for shape in shapes], np.int64),
    )


def _background(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Smooth noise of several wave lengths in three channels: [size, size, 3]."""
    picture = np.tile(random.uniform(*_OFFSETS, 3), (size, size, 1))
    for period in _OCTAVES:
        cells = size // period + 2
        knots = random.normal(0, random.uniform(*_AMPLITUDES), (cells, cells, 3))
        side = cells * period
        waves = cv2.resize(knots, (side, side), interpolation=cv2.INTER_CUBIC)
        picture += waves[period // 2 :, period // 2 :][:size, :size]
    return picture


def _placed_shapes(random: np.random.Generator, picture: NDArray[np.float64]) -> list[_Shape]:
    wanted = random.integers(1, _MAX_SHAPES + 1)
    taken = np.zeros(picture.shape[:2], np.bool_)
    shapes: list[_Shape] = []
    tries = wanted * _TRIES_PER_SHAPE
    while len(shapes) < wanted and (tries > 0 or not shapes):
        tries -= 1
        shape = _draw(random, len(taken))
        touched = shape.coverage > 0
        if not _is_inside(shape.polygon, len(taken)) or (touched & taken).any():
            continue
        hidden = picture[touched].mean(axis=0)
        if (np.abs(shape.colour - hidden) >= _MIN_CONTRAST).any():
            shapes.append(shape)
            taken |= touched
    return shapes


def _draw(random: np.random.Generator, size: int) -> _Shape:
    scale = size / _NOMINAL_SIDE
    label = int(random.integers(len(SHAPE_NAMES)))
    centre = random.uniform(_CENTRE_MARGIN * scale, size - _CENTRE_MARGIN * scale, 2)
    length = random.uniform(*_LENGTHS) * scale
    width = length / random.uniform(*_ASPECTS)
    angle_rad = random.uniform(-np.pi / 2, np.pi / 2)
    rotated_box = np.array([*centre, length, width, angle_rad], np.float32)
    polygon = _in_frame(_UNIT_OUTLINES[label], rotated_box)
    return _Shape(label, rotated_box, polygon, _coverage(polygon, size), random.uniform(0, 255, 3))


def _in_frame(outline: NDArray[np.float64], rotated_box: Floats) -> Floats:
    """An outline [k, 2] of the unit square, laid into a rotated box."""
    top_left, top_right, _, bottom_left = rotated_corners(rotated_box)[0]
    along, across = outline[:, :1], outline[:, 1:]
    points = top_left + along * (top_right - top_left) + across * (bottom_left - top_left)
    return points.astype(np.float32)


def _coverage(polygon: Floats, size: int) -> Floats:
    """How much of each pixel lies inside the polygon: [size, size], from 0 to 1."""
    coverage = np.zeros((size, size), np.float32)
    left, top = np.clip(np.floor(polygon.min(axis=0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(polygon.max(axis=0)), 0, size).astype(int)
    window = coverage[top:bottom, left:right]
    samples = np.zeros(np.array(window.shape) * _SUPERSAMPLING, np.float32)
    # OpenCV's integer coordinates are the centres of pixels.
    points = ((polygon - (left, top)) * _SUPERSAMPLING - 0.5) * 2**_FRACTION_BITS
    cv2.fillPoly(samples, [np.round(points).astype(np.int32)], 1, shift=_FRACTION_BITS)
    window[...] = cv2.resize(samples, window.shape[::-1], interpolation=cv2.INTER_AREA)
    return coverage


def _is_inside(polygon: Floats, size: int) -> bool:
    return bool(polygon.min() >= 0 and polygon.max() <= size)


def _box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _ellipse() -> NDArray[np.float64]:
    # A multiple of four, so that the outline touches all sides of its box.
    turns = np.arange(40) / 40 * 2 * np.pi
    return (np.stack([np.cos(turns), np.sin(turns)], axis=1) + 1) / 2


def _star() -> NDArray[np.float64]:
    turns = np.arange(10) / 10 * 2 * np.pi
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    points = radius[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return (points - points.min(axis=0)) / np.ptp(points, axis=0)


#: Outlines that fill the unit square, by label.
_UNIT_OUTLINES = (
    np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64),
    _ellipse(),
    np.array([(0, 0), (1, 0.5), (0, 1)], np.float64),
    _star(),
)
