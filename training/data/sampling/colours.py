"""The published jitter of hue, saturation and value, as a table per channel."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.sampling.images import Pixels

#: Largest shift of hue (of 180), saturation and value (of 255): YOLOX's, arXiv 2107.08430.
_GAINS = (5, 30, 30)

_LEVELS = np.arange(256, dtype=np.int16)


def draw_shifts(rng: np.random.Generator) -> NDArray[np.int16]:
    """Shifts of hue, saturation and value; each is 0 with probability 1/2."""
    drawn = rng.uniform(-1, 1, 3) * _GAINS * rng.integers(0, 2, 3)
    return drawn.astype(np.int16)


def shift_colours(image_bgr: Pixels, shifts: NDArray[np.int16]) -> Pixels:
    """The image [h, w, 3] with hue turned, saturation and value shifted and clipped."""
    if not shifts.any():
        return image_bgr
    hue, saturation, value = shifts
    table = np.empty((1, 256, 3), np.uint8)
    table[0, :, 0] = (_LEVELS + hue) % 180
    table[0, :, 1] = np.clip(_LEVELS + saturation, 0, 255)
    table[0, :, 2] = np.clip(_LEVELS + value, 0, 255)
    hsv = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2HSV)
    cv2.LUT(hsv, table, dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)  # type: ignore[return-value]
