"""What is in a set of images and what was found there, as packed arrays: one row per instance.

Evaluation gathers these from all ranks and compares them; torch-free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: From which area to which, in square pixels and both included, an instance is what COCO calls
#: small, medium or large.
SIZES: Mapping[str, tuple[float, float]] = {
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """The t annotated instances of n images.

    `image_sizes` int64 [n, 2] of (height, width). `images` int64 [t]: which image, from 0.
    `labels` int64 [t]. `boxes` [t, 4] xyxy, or [t, 5] (cx, cy, w, h, angle in radians), in pixels
    of the image. `areas` float64 [t] in pixels, which decides what is small and what is large.
    `ignored` bool [t]: crowds (of upright boxes and masks) or difficult ones (of rotated boxes),
    which are neither to be found nor wrong to be found. `masks`: compressed run lengths of the
    whole image, as COCO has them.
    """

    image_sizes: Ints
    images: Ints
    labels: Ints
    boxes: NDArray[np.floating]
    areas: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    masks: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Found:
    """The m detections in those images, with scores float32 [m]; other fields as in `Truth`."""

    images: Ints
    labels: Ints
    scores: NDArray[np.float32]
    boxes: NDArray[np.floating]
    masks: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several parts as one, image by image, whatever their order; at least one part.

        Detections of one image stay in their order.
        """
        images = np.concatenate([part.images for part in parts])
        order = np.argsort(images, kind="stable")
        arrays = {
            each.name: np.concatenate([getattr(part, each.name) for part in parts])[order]
            for each in fields(cls)
            if each.name != "masks"
        }
        masks = [mask for part in parts for mask in part.masks or ()]
        has_masks = parts[0].masks is not None
        return cls(**arrays, masks=tuple(masks[row] for row in order) if has_masks else None)
