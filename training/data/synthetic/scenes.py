"""Synthetic pictures of shapes at all angles and sizes, with everything that may be learned.

A scene follows from its seed alone. Shapes hide parts of one another, are lit and textured, and
throw shadows; between them lies what is no object. Lengths are in pixels whatever the picture's
size: a larger picture has more and larger shapes. Torch-free.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.clutter import paint_clutter
from training.data.synthetic.outlines import ASPECTS, SHAPE_NAMES, Floats, framed, outline
from training.data.synthetic.surfaces import Colour, colour, ground, light, sensor_noise, surface

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

#: Samples per pixel and axis that decide how much of a pixel a shape covers.
_SUPERSAMPLING = 4
#: Fractional bits of the coordinates that `cv2.fillPoly` takes.
_FRACTION_BITS = 4


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


class _Shape(NamedTuple):
    """One shape. `coverage` is how much of each pixel of `window` it covers, from 0 to 1."""

    label: int
    rotated_box: Floats
    polygon: Floats
    window: tuple[slice, slice]
    coverage: Floats
    full_area: float


def scene(seed: int, size: int = 640) -> Scene:
    """The scene of that seed, `size` x `size` pixels, with at least one shape."""
    random = np.random.default_rng(seed)
    picture = ground(random, size, size)
    for _ in range(random.integers(0, size // 40 + 2)):
        paint_clutter(random, picture)
    shapes, shown = _painted_shapes(random, picture)
    picture *= cv2.cvtColor(light(random, size, size), cv2.COLOR_GRAY2BGR)
    image = _photographed(random, picture)
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
    random: np.random.Generator, picture: Floats
) -> tuple[list[_Shape], list[Floats]]:
    """Paint shapes over one another; -> them and how much of each of their pixels still shows."""
    size = len(picture)
    wanted = int(random.integers(1, int(size * _SHAPES_PER_PIXEL) + _MORE_SHAPES + 1))
    shapes: list[_Shape] = []
    shown: list[Floats] = []
    while not shapes:
        for length in _lengths(random, wanted, size):
            for _ in range(_TRIES_PER_SHAPE):
                shape = _drawn(random, length, size)
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


def _drawn(random: np.random.Generator, length: float, size: int) -> _Shape:
    label = int(random.integers(len(SHAPE_NAMES)))
    width = length / random.uniform(*ASPECTS[label])
    centre = random.uniform(0, size, 2)
    # A large shape that begins near an edge would hardly ever fit.
    centre += (size / 2 - centre) * min(1, (length / size) ** 2 * 1.4)
    angle_rad = random.uniform(-np.pi / 2, np.pi / 2)
    rotated_box = np.array([*centre, length, width, angle_rad], np.float32)
    polygon = framed(outline(label, random), rotated_box)
    window, coverage = _coverage(polygon, size)
    return _Shape(label, rotated_box, polygon, window, coverage, _area(polygon))


def _coverage(polygon: Floats, size: int) -> tuple[tuple[slice, slice], Floats]:
    """How much of each pixel of a window lies inside the polygon, from 0 to 1."""
    left, top = np.clip(np.floor(polygon.min(axis=0)), 0, size - 1).astype(int).tolist()
    right, bottom = np.clip(np.ceil(polygon.max(axis=0)), 1, size).astype(int).tolist()
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    height, width = bottom - top, right - left
    samples = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    # OpenCV's integer coordinates are the centres of pixels.
    points = ((polygon - (left, top)) * _SUPERSAMPLING - 0.5) * 2**_FRACTION_BITS
    cv2.fillPoly(samples, [np.round(points).astype(np.int32)], 255, shift=_FRACTION_BITS)
    share = cv2.resize(samples, (width, height), interpolation=cv2.INTER_AREA)
    covered = share.astype(np.float32)
    covered /= 255
    return (slice(top, bottom), slice(left, right)), covered


def _area(polygon: Floats) -> float:
    """The shoelace formula."""
    x, y = polygon.astype(np.float64).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _contrasting(random: np.random.Generator, picture: Floats, shape: _Shape) -> Colour | None:
    """A colour that stands out from the mean of what the shape will hide, if chance finds one.

    None too for a shape of which too much lies outside.
    """
    base = colour(random)
    weight = shape.coverage.sum()
    if weight < _MIN_INSIDE * shape.full_area:
        return None
    mean = np.einsum("hwc,hw->c", picture[shape.window], shape.coverage) / weight
    return base if (np.abs(base - mean) >= _MIN_CONTRAST).any() else None


def _left_over(shapes: list[_Shape], shown: list[Floats], newest: _Shape) -> list[Floats] | None:
    """What shows of each shape under the newest one; None if too little does of any."""
    left_over: list[Floats] = []
    for shape, visible in zip(shapes, shown, strict=True):
        common = _common(shape.window, newest.window)
        if common is None:
            left_over.append(visible)
            continue
        ours, theirs = common
        fewer = visible.copy()
        fewer[ours] *= 1 - newest.coverage[theirs]
        if fewer.sum() < _MIN_VISIBLE * shape.full_area:
            return None
        left_over.append(fewer)
    return left_over


_Window = tuple[slice, slice]


def _common(first: _Window, second: _Window) -> tuple[_Window, _Window] | None:
    """Where two windows of a picture meet, in the coordinates of each."""
    starts = [max(a.start, b.start) for a, b in zip(first, second, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(first, second, strict=True)]
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return None
    spans = [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
    within = [
        tuple(
            slice(span.start - side.start, span.stop - side.start)
            for span, side in zip(spans, window, strict=True)
        )
        for window in (first, second)
    ]
    return (within[0][0], within[0][1]), (within[1][0], within[1][1])


def _paint(random: np.random.Generator, picture: Floats, shape: _Shape, base: Colour) -> None:
    if random.random() < 0.4:
        _throw_shadow(random, picture, shape)
    under = picture[shape.window]
    height, width = shape.coverage.shape
    under += shape.coverage[:, :, None] * (surface(random, height, width, base) - under)


def _throw_shadow(random: np.random.Generator, picture: Floats, shape: _Shape) -> None:
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
    common = _common(where, (slice(0, size), slice(0, size)))
    if common is not None:
        ours, theirs = common
        picture[theirs] *= 1 - random.uniform(0.2, 0.6) * soft[ours][:, :, None]


def _photographed(random: np.random.Generator, picture: Floats) -> NDArray[np.uint8]:
    """What a camera makes of it: out of focus or moved, noisy, of some exposure."""
    blur = random.random()
    if blur < 0.4:
        sigma = random.uniform(0.4, 1.2)
        picture = cv2.GaussianBlur(picture, (5, 5), sigma)  # type: ignore[assignment]
    elif blur < 0.5:
        picture = cv2.filter2D(picture, -1, _motion(random))  # type: ignore[assignment]
    noise = np.ascontiguousarray(sensor_noise(random, *picture.shape[:2]))
    exposed = cv2.addWeighted(picture, random.uniform(0.75, 1.2), noise, random.uniform(1, 8), 0)
    np.maximum(exposed, 0, out=exposed)
    return cv2.convertScaleAbs(exposed)  # type: ignore[return-value]


def _motion(random: np.random.Generator) -> Floats:
    """A kernel [7, 7] that smears along a line of 3 to 6 pixels."""
    kernel = np.zeros((7, 7), np.float32)
    turn, half = random.uniform(0, np.pi), random.uniform(1.0, 2.5)
    along = np.linspace(-half, half, 25)
    rows = np.round(3 + along * np.sin(turn)).astype(int)
    columns = np.round(3 + along * np.cos(turn)).astype(int)
    np.add.at(kernel, (rows, columns), np.float32(1 / 25))
    return kernel


def _box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
