"""Synthetic pictures of shapes at all angles and sizes, with everything that may be learned.

A scene follows from its seed alone. Shapes hide parts of one another, are lit and textured, and
throw shadows; between them lies what is no object. Lengths are in pixels whatever the picture's
size: a larger picture has more and larger shapes. Torch-free.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.annotations import Floats
from training.data.synthetic.camera import photographed
from training.data.synthetic.clutter import paint_clutter
from training.data.synthetic.shapes import Shape, common_window, drawn_shape
from training.data.synthetic.surfaces import Colour, Pixels, colour, ground, light, surface

#: The long side of a shape: at least so many pixels, at most this share of the picture.
_MIN_LENGTH = 8.0
_MAX_LENGTH_SHARE = 0.8
#: Logarithms of lengths lie between both as a beta distribution with these shapes.
_LENGTH_SPREAD = (2.4, 2.0)

#: As many shapes at most, per pixel of the picture's side, and beyond that.
_SHAPES_PER_PIXEL = 1 / 32
_MORE_SHAPES = 2
_TRIES_PER_SHAPE = 6

#: Shares of a shape's area that lie within the picture, and that nothing hides, at least.
_MIN_INSIDE = 0.85
_MIN_VISIBLE = 0.45
#: A shape differs from the mean of what it hides by this many grey levels in some channel.
_MIN_CONTRAST = 36.0


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and its n shapes. A pixel (x, y) covers the square from (x, y) to (x+1, y+1).

    `image` uint8 [h, w, 3] BGR. `masks` bool [n, h, w]: pixels of which a shape shows half or
    more. `boxes` float32 [n, 4] xyxy, the tightest around the masks. `rotated_boxes` float32
    [n, 5] (cx, cy, w, h, angle in radians, clockwise positive with y down), w > h, angle in
    [-pi/2, pi/2), around the whole shape, hidden parts too. `polygons`: n whole outlines [k, 2] of
    (x, y). `labels` int64 [n], see `SHAPE_NAMES`.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes: Floats
    rotated_boxes: Floats
    polygons: tuple[Floats, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def scene(seed: int, size: int = 640) -> Scene:
    """The scene of that seed, `size` x `size` pixels, with at least one shape."""
    random = np.random.default_rng(seed)
    picture = ground(random, size, size)
    for _ in range(random.integers(0, size // 40 + 2)):
        paint_clutter(random, picture)
    shapes, shown = _painted_shapes(random, picture)
    picture *= cv2.cvtColor(light(random, size, size), cv2.COLOR_GRAY2BGR)
    image = photographed(random, picture)
    masks = np.zeros((len(shapes), size, size), np.bool_)
    for mask, shape, visible in zip(masks, shapes, shown, strict=True):
        mask[shape.window] = visible >= 0.5
    return Scene(
        image=image,
        masks=masks,
        boxes=np.array([_box_of(mask) for mask in masks], np.float32),
        rotated_boxes=np.stack([shape.rotated_box for shape in shapes]),
        polygons=tuple(shape.polygon for shape in shapes),
        labels=np.array([shape.label for shape in shapes], np.int64),
    )


def _painted_shapes(
    random: np.random.Generator, picture: Pixels
) -> tuple[list[Shape], list[Floats]]:
    """Paint shapes over one another; -> them and how much of each of their pixels still shows."""
    size = len(picture)
    wanted = int(random.integers(1, int(size * _SHAPES_PER_PIXEL) + _MORE_SHAPES + 1))
    shapes: list[Shape] = []
    shown: list[Floats] = []
    while not shapes:
        for length in _lengths(random, wanted, size):
            for _ in range(_TRIES_PER_SHAPE):
                shape = drawn_shape(random, length, size)
                base = _contrasting(random, picture, shape)
                left_over = _left_over(shapes, shown, shape)
                if base is not None and left_over is not None:
                    shown = [*left_over, shape.coverage]
                    shapes.append(shape)
                    _paint(random, picture, shape, base)
                    break
    return shapes, shown


def _lengths(random: np.random.Generator, count: int, size: int) -> list[float]:
    """Long sides, the largest about first, so that small shapes lie on large ones more often."""
    longest = max(_MAX_LENGTH_SHARE * size, 2 * _MIN_LENGTH)
    share = random.beta(*_LENGTH_SPREAD, size=count)
    lengths = _MIN_LENGTH * (longest / _MIN_LENGTH) ** share
    order = np.argsort(-lengths * np.exp(random.normal(0, 0.6, count)))
    return lengths[order].tolist()


def _contrasting(random: np.random.Generator, picture: Pixels, shape: Shape) -> Colour | None:
    """A colour that stands out from the mean of what the shape will hide, if chance finds one.

    None too for a shape of which too much lies outside.
    """
    base = colour(random)
    weight = shape.coverage.sum()
    if weight < _MIN_INSIDE * shape.area:
        return None
    mean = np.einsum("hwc,hw->c", picture[shape.window], shape.coverage) / weight
    return base if (np.abs(base - mean) >= _MIN_CONTRAST).any() else None


def _left_over(shapes: list[Shape], shown: list[Floats], newest: Shape) -> list[Floats] | None:
    """What shows of each shape under the newest one; None if too little does of any."""
    left_over: list[Floats] = []
    for shape, visible in zip(shapes, shown, strict=True):
        common = common_window(shape.window, newest.window)
        if common is None:
            left_over.append(visible)
            continue
        ours, theirs = common
        fewer = visible.copy()
        fewer[ours] *= 1 - newest.coverage[theirs]
        if fewer.sum() < _MIN_VISIBLE * shape.area:
            return None
        left_over.append(fewer)
    return left_over


def _paint(random: np.random.Generator, picture: Pixels, shape: Shape, base: Colour) -> None:
    if random.random() < 0.4:
        _throw_shadow(random, picture, shape)
    under = picture[shape.window]
    height, width = shape.coverage.shape
    under += shape.coverage[:, :, None] * (surface(random, height, width, base) - under)


def _throw_shadow(random: np.random.Generator, picture: Pixels, shape: Shape) -> None:
    """Darken where the shape keeps the light away, softly."""
    rows, columns = shape.window
    reach = max(1, round(min(shape.coverage.shape) * random.uniform(0.03, 0.12)))
    down, right = (int(each) for each in random.integers(-reach, reach + 1, 2))
    soft = cv2.copyMakeBorder(
        shape.coverage, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0
    )
    soft = cv2.blur(soft, (reach + 1, reach + 1))
    where = (
        slice(rows.start - reach + down, rows.stop + reach + down),
        slice(columns.start - reach + right, columns.stop + reach + right),
    )
    size = len(picture)
    common = common_window(where, (slice(0, size), slice(0, size)))
    if common is not None:
        ours, theirs = common
        picture[theirs] *= 1 - random.uniform(0.2, 0.6) * soft[ours][:, :, None]


def _box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
