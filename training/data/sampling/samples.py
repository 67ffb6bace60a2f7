"""A sample: pixels of the input's size and what is to be seen in them, not yet tensors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.annotations import Floats
from training.data.sampling.images import Pixels
from training.data.sampling.masks import Bitmap


class Instances(NamedTuple):
    """The n instances of a sample; frames as in `Annotations`, in pixels of the input.

    `bitmaps` holds n of them for instance models.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    bitmaps: tuple[Bitmap, ...] | None = None

    def where(self, kept: NDArray[np.bool_]) -> "Instances":
        """Those for which `kept` holds."""
        if kept.all():
            return self
        bitmaps = None
        if self.bitmaps is not None:
            bitmaps = tuple(self.bitmaps[index] for index in np.flatnonzero(kept))
        return Instances(self.boxes[kept], self.labels[kept], bitmaps)


def joined(parts: list[Instances]) -> Instances:
    """All of them in one, in order; there is at least one part."""
    first = parts[0]
    if len(parts) == 1:
        return first
    bitmaps = None
    if first.bitmaps is not None:
        bitmaps = tuple(bitmap for part in parts for bitmap in part.bitmaps or ())
    return Instances(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        bitmaps,
    )


class Sample(NamedTuple):
    """`image` uint8 [h, w, 3] BGR with its instances.

    `problems`: a line for each image that could not be read and was replaced.
    """

    image: Pixels
    instances: Instances
    problems: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """What it holds in memory, but for a few numbers per instance."""
        bitmaps = self.instances.bitmaps or ()
        return self.image.nbytes + sum(each.pixels.nbytes for each in bitmaps)
