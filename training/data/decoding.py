"""Pixels from image files: the one place where training decodes them."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def decode_file(path: Path, flags: int = cv2.IMREAD_COLOR) -> Pixels | None:
    """The pixels of a file as OpenCV's `flags` ask for them, None for what is no image.

    Raises OSError for a file that cannot be read.
    """
    return decode(np.fromfile(path, np.uint8), flags)


def decode(stored: NDArray[np.uint8], flags: int = cv2.IMREAD_COLOR) -> Pixels | None:
    """The same for the bytes [n] of a file."""
    # Not cv2.imread: it fails on TIFF that is to be turned.
    try:
        return cv2.imdecode(stored, flags)  # type: ignore[return-value]
    except cv2.error:
        # Empty files and headers that promise too much; the rest gives None.
        return None
