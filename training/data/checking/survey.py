"""What a split holds, as columns: images, their sizes, and the boxes of what is sound.

Grows while the reader of training runs over the split, and is what all later checks look at.
"""

import random
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.formats.layouts import DataSource
from training.data.formats.records import ImageRecord

#: Images of a split that are kept whole, to be drawn as samples.
NUM_SAMPLES = 12


@dataclass(eq=False)
class Survey:
    """One split. Image i owns the instances between offsets i and i + 1, and `used` says whether
    training or evaluation ever opens it.

    `sides` are width and height of each box, in pixels, along its own axes; `numbers` its class's
    number in `names`; `trained` whether it is trained on. `classes` are those that are trained, in
    the order of the labels; `listed` those that this split's files list. `is_complete`: it was
    read to its end, whatever is wrong with single records. `is_sound`: nothing is refused.
    """

    source: DataSource
    are_upright: bool = False
    is_complete: bool = False
    is_sound: bool = False
    classes: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    paths: list[Path] = field(default_factory=list)
    sizes: "array[int]" = field(default_factory=lambda: array("i"))
    used: bytearray = field(default_factory=bytearray)
    offsets: "array[int]" = field(default_factory=lambda: array("q", [0]))
    sides: "array[float]" = field(default_factory=lambda: array("f"))
    numbers: "array[int]" = field(default_factory=lambda: array("i"))
    trained: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    samples: list[ImageRecord] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def split(self) -> str:
        """Which of the data set's splits it is."""
        return self.source.split

    def add_image(self, image: ImageRecord, *, is_used: bool) -> None:
        """The image, after its instances."""
        self.paths.append(image.path)
        self.used.append(is_used)
        self.sizes.extend((image.height, image.width))
        self.offsets.append(len(self.numbers))
        self._sample(image)

    def add_instance(self, name: str, width: float, height: float, *, is_trained: bool) -> None:
        """One instance of the image that is added next."""
        self.numbers.append(self.names.setdefault(name, len(self.names)))
        self.sides.extend((width, height))
        self.trained.append(is_trained)

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.sizes[2 * position], self.sizes[2 * position + 1]

    def trained_counts(self) -> dict[str, int]:
        """How many instances of each class are trained on, listed classes without any too."""
        counts = dict.fromkeys(self.classes, 0)
        numbers = np.asarray(self.numbers, np.int64)[np.asarray(self.trained, np.bool_)]
        totals = np.bincount(numbers, minlength=len(self.names)).tolist()
        return counts | dict(zip(self.names, totals, strict=True))

    def trained_sides(self) -> NDArray[np.float32]:
        """Width and height [n, 2] of what is trained on."""
        sides = np.asarray(self.sides, np.float32).reshape(-1, 2)
        return sides[np.asarray(self.trained, np.bool_)]

    def scales(self, input_size: tuple[int, int]) -> NDArray[np.float64]:
        """By how much each trained instance is resized [n] when its image is fitted in."""
        sizes = np.asarray(self.sizes, np.float64).reshape(-1, 2)
        fitted = (np.array(input_size) / np.maximum(sizes, 1)).min(axis=1, initial=np.inf)
        counts = np.diff(np.asarray(self.offsets, np.int64))
        return np.repeat(fitted, counts)[np.asarray(self.trained, np.bool_)]

    def _sample(self, image: ImageRecord) -> None:
        """Keep every image with the same chance (reservoir sampling, Vitter's algorithm R)."""
        if len(self.samples) < NUM_SAMPLES:
            self.samples.append(image)
            return
        place = self._random.randrange(len(self.paths))
        if place < NUM_SAMPLES:
            self.samples[place] = image
