"""The annotations of one image as values, whatever format they were read from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Outline:
    """Where one instance is, in pixels of its image.

    Either `polygons`, each [k, 2] of (x, y), which together cover it; or a `bitmap` (uint8, 1
    where the instance is) whose top left pixel is `origin` (x, y), as decoded from run lengths.
    """

    polygons: tuple[Floats, ...] = ()
    bitmap: NDArray[np.uint8] | None = None
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Annotations:
    """The n instances of one image that are trained on: no crowds, nothing marked difficult.

    `boxes` float32 [n, 4] xyxy, or [n, 5] (cx, cy, w, h, angle in radians, clockwise positive
    with y down, not regularised), in pixels of the image. `labels` int64 [n], from 0. `outlines`
    holds n of them for instance models.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    outlines: tuple[Outline, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class AnnotatedImages(Protocol):
    """A data set: images on disk and their annotations, by position.

    Workers get a pickled one, so that it holds paths and not the annotations themselves.
    """

    classes: tuple[str, ...]
    #: Whether annotations count pixels of the pictures as viewers show them, and not as stored.
    are_upright: bool

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        ...

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width in pixels, as the annotations count them."""
        ...

    def annotations(self, position: int) -> Annotations:
        """What the image is trained with."""
        ...
