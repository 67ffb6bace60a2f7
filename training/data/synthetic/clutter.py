"""What lies about in a synthetic scene and is no object: lines, scribbles, rings, signs, shards.

Each is painted into the picture itself, a float32 [h, w, 3] BGR.
"""

from collections.abc import Callable

import cv2
import numpy as np

from training.data.synthetic.surfaces import Pixels, colour

_FRACTION_BITS = 4


def paint_clutter(random: np.random.Generator, picture: Pixels) -> None:
    """Paint one piece of clutter somewhere."""
    _PIECES[random.integers(len(_PIECES))](random, picture)


def _place(random: np.random.Generator, picture: Pixels) -> tuple[int, int]:
    return int(random.integers(picture.shape[1])), int(random.integers(picture.shape[0]))


def _paint(random: np.random.Generator) -> tuple[float, float, float]:
    blue, green, red = colour(random).tolist()
    return blue, green, red


def _line(random: np.random.Generator, picture: Pixels) -> None:
    thickness = int(random.integers(1, 4))
    start, end = _place(random, picture), _place(random, picture)
    cv2.line(picture, start, end, _paint(random), thickness, cv2.LINE_8)


def _scribble(random: np.random.Generator, picture: Pixels) -> None:
    steps = random.normal(0, random.uniform(4, 14), (int(random.integers(8, 40)), 2))
    points = np.cumsum(np.cumsum(steps, axis=0) * 0.3, axis=0) + _place(random, picture)
    thickness = int(random.integers(1, 4))
    lines = [(points * 2**_FRACTION_BITS).astype(np.int32)]
    cv2.polylines(picture, lines, False, _paint(random), thickness, shift=_FRACTION_BITS)


def _ring(random: np.random.Generator, picture: Pixels) -> None:
    axes = tuple(int(each) for each in random.integers(4, max(6, min(picture.shape[:2]) // 5), 2))
    start_deg = random.uniform(0, 360)
    cv2.ellipse(
        picture,
        _place(random, picture),
        axes,
        random.uniform(0, 180),
        start_deg,
        start_deg + random.uniform(60, 360),
        _paint(random),
        int(random.integers(1, 4)),
    )


def _signs(random: np.random.Generator, picture: Pixels) -> None:
    """Strokes between the points of a small grid, like letters of no alphabet."""
    left, top = _place(random, picture)
    gap = random.uniform(2.5, 9)
    paint, thickness = _paint(random), int(random.integers(1, 4))
    for number in range(int(random.integers(1, 5))):
        points = random.integers((0, 0), (3, 5), (int(random.integers(4, 7)), 2)) * gap
        placed = points + np.array([left + number * 3.2 * gap, top])
        lines = [(placed * 2**_FRACTION_BITS).astype(np.int32)]
        cv2.polylines(picture, lines, False, paint, thickness, shift=_FRACTION_BITS)


def _shards(random: np.random.Generator, picture: Pixels) -> None:
    """Splinters too thin and too ragged to be any of the shapes."""
    for _ in range(int(random.integers(2, 7))):
        turns = np.sort(random.uniform(0, 2 * np.pi, 7))
        radius = random.uniform(0.1, 1, 7) * random.uniform(3, 16)
        points = radius[:, None] * np.stack([np.cos(turns), 0.3 * np.sin(turns)], axis=1)
        tilt = random.uniform(0, np.pi)
        turned = points @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        placed = ((turned + _place(random, picture)) * 2**_FRACTION_BITS).astype(np.int32)
        cv2.fillPoly(picture, [placed], _paint(random), shift=_FRACTION_BITS)


def _grid(random: np.random.Generator, picture: Pixels) -> None:
    """A patch of parallel lines."""
    left, top = _place(random, picture)
    turn, gap = random.uniform(0, np.pi), random.uniform(4, 12)
    length = random.uniform(12, 60)
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]]) * gap
    paint = _paint(random)
    for number in range(int(random.integers(3, 8))):
        start = np.array([left, top]) + number * across
        ends = [tuple(int(each) for each in point) for point in (start, start + along * length)]
        cv2.line(picture, ends[0], ends[1], paint, 1)


_PIECES: tuple[Callable[[np.random.Generator, Pixels], None], ...] = (
    _line,
    _scribble,
    _ring,
    _signs,
    _shards,
    _grid,
)
