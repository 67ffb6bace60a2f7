"""One shape of a synthetic scene: where it lies, and how much of each pixel it covers. No colours.

Only the window of the picture that a shape reaches is ever looked at; `common_window` says where
two of them meet.
"""

from typing import NamedTuple

import cv2
import numpy as np

from training.data.annotations import Floats
from training.data.synthetic.outlines import ASPECTS, SHAPE_NAMES, framed, outline

#: Samples per pixel and axis that decide how much of a pixel a shape covers.
_SUPERSAMPLING = 4
#: Fractional bits of the coordinates that `cv2.fillPoly` takes.
_FRACTION_BITS = 4

#: Rows and columns of a picture.
Window = tuple[slice, slice]


class Shape(NamedTuple):
    """One shape and the pixels that it covers.

    `rotated_box` float32 [5] (cx, cy, w, h, angle in radians) around `polygon`, its outline [k, 2].
    `coverage` [h, w]: how much of each pixel of `window` it covers, from 0 to 1. `area` of the
    outline in square pixels, also outside of the picture. `label`: see `SHAPE_NAMES`.
    """

    label: int
    rotated_box: Floats
    polygon: Floats
    window: Window
    coverage: Floats
    area: float


def drawn_shape(random: np.random.Generator, length: float, size: int) -> Shape:
    """A shape of any class somewhere, `length` pixels long, in a picture of `size` x `size`."""
    label = int(random.integers(len(SHAPE_NAMES)))
    width = length / random.uniform(*ASPECTS[label])
    centre = random.uniform(0, size, 2)
    # A large shape that begins near an edge would hardly ever fit.
    centre += (size / 2 - centre) * min(1, (length / size) ** 2 * 1.4)
    angle_rad = random.uniform(-np.pi / 2, np.pi / 2)
    rotated_box = np.array([*centre, length, width, angle_rad], np.float32)
    polygon = framed(outline(label, random), rotated_box)
    window, coverage = _coverage(polygon, size)
    return Shape(label, rotated_box, polygon, window, coverage, _area(polygon))


def _coverage(polygon: Floats, size: int) -> tuple[Window, Floats]:
    """The window of a polygon [k, 2], and how much of each of its pixels lies inside, 0 to 1."""
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


def common_window(first: Window, second: Window) -> tuple[Window, Window] | None:
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
