"""Windows and OS/2 bitmaps of 1 to 32 bits, plain or run-length coded."""

import re
import struct

import numpy as np
from numpy.typing import NDArray

from service.codecs.image_formats.base import (
    ImageFormat,
    ImageHeader,
    cut_off,
    damaged,
    not_served,
    padded_pixels,
)
from service.codecs.image_formats.decoders import decode_with_opencv
from service.codecs.image_formats.pixels import to_bgr

_NAME = "bmp"
_FILE_HEADER_BYTES = 14
_OS2_HEADER_BYTES = 12
_PLAIN, _RLE8, _RLE4, _BIT_FIELDS = 0, 1, 2, 3
_BITS = (1, 4, 8, 16, 24, 32)


def read_header(data: bytes) -> ImageHeader:
    """Read the header, and compare the file's length with the size it states."""
    pixels_at, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == _OS2_HEADER_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", data, _FILE_HEADER_BYTES + 4)
        compression = _PLAIN
    else:
        layout = "<iiHHI"
        width, height, _, bits, compression = struct.unpack_from(
            layout, data, _FILE_HEADER_BYTES + 4
        )
    # Rows stand from bottom to top; a negative height turns them round.
    height = abs(height)
    if width <= 0 or height == 0:
        raise damaged(_NAME, "it has no size")
    if compression not in (_PLAIN, _RLE8, _RLE4, _BIT_FIELDS) or bits not in _BITS:
        raise not_served(f"BMP of {bits} bits in compression {compression}")
    bytes_per_row = (width * bits + 31) // 32 * 4
    if compression in (_PLAIN, _BIT_FIELDS) and pixels_at + bytes_per_row * height > len(data):
        raise cut_off(_NAME)
    bytes_per_pixel = 8 if bits == 32 else 6
    return ImageHeader(_NAME, width, height, bytes_per_pixel * padded_pixels(width, height))


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode; 32 bits have transparency only where the header gives it a mask."""
    return to_bgr(decode_with_opencv(_NAME, data))


FORMAT = ImageFormat(_NAME, re.compile(rb"BM"), read_header, read_pixels)
