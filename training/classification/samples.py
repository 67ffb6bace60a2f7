"""Images of one class each become samples: random crops to train on, the centre to evaluate on."""

import math
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from training.config import FlipConfig, StageConfig
from training.data.decoding import Pixels, decode_file
from training.data.sampling.colours import draw_shifts, shift_colours
from training.data.sampling.images import UnreadableImage

#: A crop's share of the image's area, and its width over its height (arXiv 1409.4842, section 6).
_AREAS = (0.08, 1.0)
_ASPECTS = (3 / 4, 4 / 3)

#: How often a crop is drawn that does not lie in the image, before the centre is taken.
_MAX_DRAWS = 10

#: For evaluation the image is scaled until it covers the input, this much larger, whose centre is
#: then cut out: the customary 256 for 224.
_EVALUATION_MARGIN = 256 / 224


class LabelledImages(Protocol):
    """Images of one class each, by position; `training.data.indexing.image_folders` has one."""

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        ...

    def label(self, position: int) -> int:
        """Its class, a position in `classes`."""
        ...


class Crop(NamedTuple):
    """A window of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def read_picture(path: Path) -> Pixels:
    """Read an image as a viewer shows it: uint8 [h, w, 3] BGR. Raises UnreadableImage."""
    try:
        image = decode_file(path)
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from None
    if image is None:
        raise UnreadableImage(f"{path}: no image that can be decoded")
    return image


def training_sample(
    image: Pixels, input_size: tuple[int, int], stage: StageConfig, rng: np.random.Generator
) -> Pixels:
    """A random part of `image`, resized to (height, width), perhaps mirrored and recoloured."""
    crop = draw_crop(image.shape[0], image.shape[1], rng)
    sample = _resized(_cut(image, crop), input_size)
    axis = _drawn_flip(stage.flip, rng)
    if axis is not None:
        sample = cv2.flip(sample, axis)
    if stage.colour:
        sample = shift_colours(sample, draw_shifts(rng))  # type: ignore[arg-type]
    return sample  # type: ignore[return-value]


def evaluation_sample(image: Pixels, input_size: tuple[int, int]) -> Pixels:
    """The centre of `image`, resized to (height, width) with a margin left out."""
    height, width = input_size
    # What of the image becomes the input, in its pixels: as large as fits, less the margin.
    pixels = min(image.shape[0] / height, image.shape[1] / width) / _EVALUATION_MARGIN
    return _resized(_cut(image, _central(image, height * pixels, width * pixels)), input_size)


def draw_crop(height: int, width: int, rng: np.random.Generator) -> Crop:
    """A window of random area and aspect inside an image of that size."""
    low, high = math.log(_ASPECTS[0]), math.log(_ASPECTS[1])
    for _ in range(_MAX_DRAWS):
        area = height * width * rng.uniform(*_AREAS)
        aspect = math.exp(rng.uniform(low, high))
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return Crop(top, left, crop_height, crop_width)
    # An image much longer than wide: as much of its centre as the aspects allow.
    crop_width = min(width, max(1, round(height * _ASPECTS[1])))
    crop_height = min(height, max(1, round(width / _ASPECTS[0])))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def _central(image: Pixels, height: float, width: float) -> Crop:
    whole_height, whole_width = image.shape[:2]
    rows, columns = max(1, round(height)), max(1, round(width))
    return Crop((whole_height - rows) // 2, (whole_width - columns) // 2, rows, columns)


def _cut(image: Pixels, crop: Crop) -> Pixels:
    return image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    height, width = size
    shrinks = image.shape[0] > height and image.shape[1] > width
    # Where several pixels become one, all of them count.
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)  # type: ignore[return-value]


def _drawn_flip(flip: FlipConfig, rng: np.random.Generator) -> int | None:
    """cv2's name of the axis: 1 left to right, 0 upside down, -1 both; None for no flip."""
    drawn = rng.random()
    for probability, axis in ((flip.horizontal, 1), (flip.vertical, 0), (flip.diagonal, -1)):
        if drawn < probability:
            return axis
        drawn -= probability
    return None
