"""What every reader gives, whatever the format: classes, then image after image.

Coordinates are in pixels of the image, x before y, y down.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.annotations import Floats


class Category(NamedTuple):
    """A class as the file has it."""

    id: int
    name: str


#: The classes in the order of the file; where only the annotations name them, what puts those
#: into order that were met.
Categories = tuple[Category, ...] | Callable[[Collection[str]], tuple[Category, ...]]


@dataclass(frozen=True, eq=False, slots=True)
class InstanceRecord:
    """One annotation as the file has it.

    `record` is where it stands in the file ("annotation 7", "line 3"). Each polygon is flat
    (x1, y1, x2, y2, ...). `run_lengths` are COCO's compressed ones, of the whole image. `area` is
    None where the file does not say.
    """

    record: str
    id: int
    category: str
    box_xyxy: tuple[float, float, float, float]
    polygons: tuple[Floats, ...] = ()
    run_lengths: bytes | None = None
    is_crowd: bool = False
    is_difficult: bool = False
    area: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class ImageRecord:
    """One image as the file has it; `file` is where its annotations stand."""

    id: int
    path: Path
    height: int
    width: int
    file: Path
    instances: list[InstanceRecord] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class RecordStream:
    """A data set while it is read.

    `images` can be run through once; `num_images` is how many it gives at most. `are_upright`:
    annotations count pixels of the pictures as viewers show them, whatever their metadata say;
    otherwise as they are stored, unless only the upright picture has the size that is stated.
    """

    categories: Categories
    num_images: int
    images: Iterator[ImageRecord]
    are_upright: bool


def hull_xyxy(points: Floats) -> tuple[float, float, float, float]:
    """The box around flat points (x1, y1, ...); at least one point."""
    corners: NDArray[np.float32] = points.reshape(-1, 2)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    return left, top, right, bottom


def single_precision(values: NDArray[np.float64]) -> Floats:
    """The same coordinates; what is too large for them becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
