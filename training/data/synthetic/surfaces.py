"""What synthetic scenes are made of: textured grounds and surfaces, light, shadow, sensor noise.

Pictures are float32 [h, w, 3] BGR, 0 to 255. Noise is cut from one tile that is made once, because
drawing a million normal numbers takes longer than the rest of a scene.
"""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

#: A picture, or a field that one is made of; double precision where numpy computes it so.
Pixels = NDArray[np.floating]
Colour = NDArray[np.float32]

_TILE_SIDE = 1024
_TILE_SEED = 20221214

#: Wave lengths of clouds in pixels, whatever the picture's size, and their share.
_OCTAVES = ((6, 0.5), (14, 0.8), (40, 1.0), (110, 1.2))

#: Coarse grids that light is made on have so many points a side.
_LIGHT_KNOTS = 9


def colour(random: np.random.Generator, low: float = 20, high: float = 235) -> Colour:
    """A colour [3] of BGR, each channel from `low` to `high`."""
    return random.uniform(low, high, 3).astype(np.float32)


def ground(random: np.random.Generator, height: int, width: int) -> Pixels:
    """What everything lies on [height, width, 3]: two colours that meet in some pattern."""
    pattern = _PATTERNS[random.integers(len(_PATTERNS))](random, height, width)
    first, second = colour(random, 40, 215), colour(random, 40, 215)
    # Colours further apart than this hide what lies on them.
    second = first + (second - first) * random.uniform(0.25, 0.7)
    tone = np.full(3, random.uniform(2, 14))
    fields = cv2.merge((pattern, clouds(random, height, width)))
    mixture = np.stack([second - first, tone, first], axis=1)
    return cv2.transform(fields, mixture)  # type: ignore[return-value]


def surface(random: np.random.Generator, height: int, width: int, base: Colour) -> Pixels:
    """The face of one shape [height, width, 3]: `base`, lit from a side, plain or textured."""
    tone = _slope(random, height, width) * random.uniform(0, 22)
    kind = random.integers(4)
    if kind == 1:
        tone = tone + (_stripes(random, height, width) - 0.5) * random.uniform(10, 40)
    elif kind == 2:
        tone = tone + grain(random, height, width) * random.uniform(4, 14)
    elif kind == 3:
        tone = tone + clouds(random, height, width) * random.uniform(5, 16)
    return base + tone[:, :, None]


def grain(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Noise of unit deviation [height, width] without any structure."""
    return _window(random, _tile()[:, :, random.integers(3)], height, width)


def sensor_noise(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Noise of unit deviation in three channels: [height, width, 3]."""
    return _window(random, _tile(), height, width)


def clouds(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Smooth noise [height, width] of several wave lengths, of about unit deviation."""
    field = np.zeros((height, width), np.float32)
    for period, share in _OCTAVES:
        if period < 2 * max(height, width):
            field += share * _waves(random, height, width, period)
    return field


def light(random: np.random.Generator, height: int, width: int) -> Pixels:
    """How brightly each place is lit [height, width], about 1: from a side, with a bright spot."""
    y, x = np.mgrid[-1 : 1 : _LIGHT_KNOTS * 1j, -1 : 1 : _LIGHT_KNOTS * 1j]
    turn = random.uniform(0, 2 * np.pi)
    field = 1 + random.uniform(0, 0.3) * (x * np.cos(turn) + y * np.sin(turn))
    spot_x, spot_y = random.uniform(-1, 1, 2)
    distance = (x - spot_x) ** 2 + (y - spot_y) ** 2
    field += random.uniform(-0.25, 0.3) * np.exp(-distance / random.uniform(0.2, 1.0))
    return cv2.resize(field.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def _flat(_random: np.random.Generator, height: int, width: int) -> Pixels:
    return np.zeros((height, width), np.float32)


def _slope(random: np.random.Generator, height: int, width: int) -> Pixels:
    """From -1 to 1 in some direction."""
    turn = random.uniform(0, 2 * np.pi)
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    plane = x[None, :] * np.cos(turn) + y[:, None] * np.sin(turn)
    return (plane / (abs(np.cos(turn)) + abs(np.sin(turn)))).astype(np.float32)


def _gradient(random: np.random.Generator, height: int, width: int) -> Pixels:
    return (_slope(random, height, width) + 1) / 2


def _stripes(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Waves in some direction, from 0 to 1; soft or with hard edges."""
    turn, period = random.uniform(0, np.pi), random.uniform(5, 60)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    phase = (2 * np.pi / period) * (x[None, :] * np.cos(turn) + y[:, None] * np.sin(turn))
    waves = np.sin(phase.astype(np.float32)) * random.uniform(0.5, 6)
    return np.clip(waves * 0.5 + 0.5, 0, 1)


def _tiles(random: np.random.Generator, height: int, width: int) -> Pixels:
    """A chess board that is turned."""
    return np.abs(_stripes(random, height, width) - _stripes(random, height, width))


def _patches(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Areas with hard edges, as fields or clouds have."""
    return np.clip(clouds(random, height, width) * random.uniform(0.5, 4) + 0.5, 0, 1)


_PATTERNS: tuple[Callable[[np.random.Generator, int, int], Pixels], ...] = (
    _flat,
    _gradient,
    _stripes,
    _tiles,
    _patches,
    _patches,
)


def _waves(random: np.random.Generator, height: int, width: int, period: int) -> Pixels:
    knots = random.standard_normal((height // period + 3, width // period + 3), np.float32)
    rows, columns = (knots.shape[0] - 1) * period, (knots.shape[1] - 1) * period
    waves = cv2.resize(knots, (columns, rows), interpolation=cv2.INTER_LINEAR)
    top, left = period // 2, period // 2
    return waves[top : top + height, left : left + width]  # type: ignore[return-value]


def _window(random: np.random.Generator, tile: Pixels, height: int, width: int) -> Pixels:
    """A window of the tile, which repeats itself where it is too small; turned over at random."""
    repeats = (-(-height // len(tile)), -(-width // len(tile)), 1)[: tile.ndim]
    field = np.tile(tile, repeats) if max(repeats) > 1 else tile
    top = int(random.integers(len(field) - height + 1))
    left = int(random.integers(field.shape[1] - width + 1))
    window = field[top : top + height, left : left + width]
    return window[:: 1 if random.integers(2) else -1]


@cache
def _tile() -> Pixels:
    random = np.random.default_rng(_TILE_SEED)
    return random.standard_normal((_TILE_SIDE, _TILE_SIDE, 3), np.float32)
