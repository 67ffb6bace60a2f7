"""PNG (third edition), of 1 to 16 bits, interlaced or not; of an animated PNG the default image."""

import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.codecs.image_formats.base import ImageFormat, ImageHeader, cut_off, damaged
from service.codecs.image_formats.decoders import decode_with_opencv
from service.codecs.image_formats.pixels import to_bgr
from service.codecs.image_formats.tiff_directory import exif_orientation

_NAME = "png"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Text, profiles and the frames of an animation are left out: libpng inflates what it meets, and a
# file of 771 KB with a hundred text chunks kept it busy for 3.2 s.
_PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))

# Encoders write chunks of 8 KiB and more; this only bounds the time of the walk.
_MAX_CHUNKS = 200_000


def read_header(data: bytes) -> ImageHeader:
    """Read the chunks' headers up to the end."""
    width = height = 0
    orientation, animated, has_icc_profile = 1, False, False
    for kind, start, end in _chunks(data):
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, start)
        elif kind == b"eXIf":
            orientation = exif_orientation(data[start:end])
        elif kind == b"acTL":
            animated = True
        elif kind == b"iCCP":
            has_icc_profile = True
    if width == 0 or height == 0:
        raise damaged(_NAME, "it has no size")
    return ImageHeader(_NAME, width, height, orientation, animated, has_icc_profile)


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode the chunks that make pixels; libpng checks their sums."""
    return to_bgr(decode_with_opencv(_NAME, pixels_only(data)))


def pixels_only(data: bytes) -> bytes:
    """The file without the chunks that make no pixels."""
    # Length and kind stand before the contents, the sum behind.
    kept = [
        data[start - 8 : end + 4] for kind, start, end in _chunks(data) if kind in _PIXEL_CHUNKS
    ]
    return b"".join([_SIGNATURE, *kept])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the contents of each chunk; what follows `IEND` is passed over."""
    position = len(_SIGNATURE)
    for index in range(_MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        position = end + 4
        if position > len(data):
            raise cut_off(_NAME)
        if (index == 0) != (kind == b"IHDR"):
            raise damaged(_NAME, "its first chunk, and no other, must be its header")
        yield kind, start, end
        if kind == b"IEND":
            return
    raise damaged(_NAME, f"it has more than {_MAX_CHUNKS} chunks")


FORMAT = ImageFormat(_NAME, re.compile(re.escape(_SIGNATURE)), read_header, read_pixels)
