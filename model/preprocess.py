"""A picture becomes the network's input: keep-ratio resize, then padding on the right and below.

Serving, evaluation and calibration all come through here, so a model sees the same pixels
everywhere. Normalisation is not done here: it is inside the exported graph.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

#: Grey level of the padding; the published models were trained with it.
PAD_VALUE = 114


@dataclass(frozen=True)
class Letterbox:
    """Where the original image lies in the network's input: at the top left, scaled.

    `scale_x` and `scale_y` are input pixels per original pixel. They differ a little, because the
    resized width and height are whole numbers.
    """

    image_width: int
    image_height: int
    scale_x: float
    scale_y: float
    input_width: int
    input_height: int


def resized_size(
    image_width: int, image_height: int, input_width: int, input_height: int
) -> tuple[int, int]:
    """Width and height of the image after the keep-ratio resize, at least one pixel each.

    The published rule: the factor that fits both sides, then `int(side * factor + 0.5)`.
    """
    longest, shortest = max(input_width, input_height), min(input_width, input_height)
    factor = min(
        longest / max(image_width, image_height),
        shortest / min(image_width, image_height),
    )
    # For inputs that are not square the published rule may exceed a side of the input; then the
    # image is fitted side by side.
    factor = min(factor, (input_width + 0.499) / image_width, (input_height + 0.499) / image_height)
    return (
        max(1, int(image_width * factor + 0.5)),
        max(1, int(image_height * factor + 0.5)),
    )


def letterbox_of(
    image_width: int, image_height: int, input_width: int, input_height: int
) -> Letterbox:
    """The geometry alone, for an image of this size."""
    width, height = resized_size(image_width, image_height, input_width, input_height)
    return Letterbox(
        image_width=image_width,
        image_height=image_height,
        scale_x=width / image_width,
        scale_y=height / image_height,
        input_width=input_width,
        input_height=input_height,
    )


def letterbox_into(image_bgr: NDArray[np.uint8], destination: NDArray[np.uint8]) -> Letterbox:
    """Resize `image_bgr` [h, w, 3] into `destination` [H, W, 3] and pad the rest.

    `destination` is overwritten as a whole; it may be a row of a batch. Returns the geometry.
    """
    input_height, input_width = destination.shape[:2]
    image_height, image_width = image_bgr.shape[:2]
    width, height = resized_size(image_width, image_height, input_width, input_height)
    target = destination[:height, :width]
    if (width, height) == (image_width, image_height):
        target[...] = image_bgr
    else:
        # A float resize would differ by up to one grey level from the published preprocessing.
        cv2.resize(image_bgr, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    destination[height:, :] = PAD_VALUE
    destination[:height, width:] = PAD_VALUE
    return letterbox_of(image_width, image_height, input_width, input_height)


def letterbox(
    image_bgr: NDArray[np.uint8], input_width: int, input_height: int
) -> tuple[NDArray[np.uint8], Letterbox]:
    """`letterbox_into` a fresh array: uint8 [input_height, input_width, 3], and the geometry."""
    canvas = np.empty((input_height, input_width, 3), np.uint8)
    return canvas, letterbox_into(image_bgr, canvas)
