"""Figures of the page: how often classes occur, and how large instances are at the input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import STRIDES
from training.data.checking.survey import Survey

#: Half octaves, from 1 pixel to 2,048.
_EDGES = 2 ** np.arange(0, 11.5, 0.5)
_MAX_CLASSES = 60


@dataclass(frozen=True)
class ClassBar:
    """A class's instances in train and val, and both as shares of the most frequent's."""

    name: str
    counts: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class SizeBar:
    """Instances whose size lies between two edges; `share` is of the highest bar."""

    low: float
    high: float
    count: int
    share: float
    is_tiny: bool


def class_bars(surveys: tuple[Survey, ...]) -> list[ClassBar]:
    """The most frequent classes, and the rarest of the others."""
    counts = [survey.trained_counts() for survey in surveys]
    names = dict.fromkeys(name for each in counts for name in each)
    ordered = sorted(names, key=lambda name: -counts[0].get(name, 0))
    shown = ordered[:_MAX_CLASSES]
    # Each split by itself: val is smaller by rights.
    highest = [max((*each.values(), 1)) for each in counts]
    return [
        ClassBar(
            name,
            tuple(each.get(name, 0) for each in counts),
            tuple(each.get(name, 0) / most for each, most in zip(counts, highest, strict=True)),
        )
        for name in shown
    ]


def size_bars(survey: Survey, input_size: tuple[int, int]) -> list[SizeBar]:
    """Sizes (square root of the area) once images are fitted into the input."""
    sides = np.clip(survey.trained_sides().astype(np.float64), 0, None)
    sizes: NDArray[np.float64] = np.sqrt(sides.prod(axis=1)) * survey.scales(input_size)
    counts = np.histogram(np.clip(sizes, _EDGES[0], _EDGES[-1] - 1), _EDGES)[0].tolist()
    highest = max((*counts, 1))
    edges = _EDGES.tolist()
    return [
        SizeBar(low, high, count, count / highest, is_tiny=high <= STRIDES[0])
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
