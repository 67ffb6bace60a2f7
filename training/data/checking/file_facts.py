"""What an image file says of itself beside its size: channels, depth, orientation, its end.

JPEG and PNG are read here; what other formats hold shows when they are decoded.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.formats.image_headers import exif_orientation

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_GREY, _PNG_GREY_ALPHA, _PNG_COLOUR_ALPHA = 0, 4, 6
_EXIF = b"Exif\0\0"
_END_OF_IMAGE = b"\xff\xd9"
_EXIF_SEGMENT, _START_OF_SCAN = 0xE1, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class FileFacts:
    """`channels` as stored: 1 grey, 3 colour, 4 colour and alpha, or CMYK; 0 where unknown.

    `bits` of a channel. `orientation` is EXIF's, 1 for upright. `has_end`: not cut off, as far as
    the format marks its end.
    """

    channels: int = 0
    bits: int = 8
    is_cmyk: bool = False
    has_alpha: bool = False
    orientation: int = 1
    has_end: bool = True


def file_facts(stored: bytes) -> FileFacts:
    """The facts of a file, or of its first part; of a damaged one as far as it can be followed."""
    try:
        if stored.startswith(_PNG):
            return _png_facts(stored)
        if stored.startswith(_JPEG):
            return _jpeg_facts(stored)
    except (struct.error, IndexError):
        # Cut off within its head.
        return FileFacts(has_end=False)
    return FileFacts()


def decoded_facts(pixels: NDArray[np.generic]) -> FileFacts:
    """The facts that unchanged pixels [h, w] or [h, w, c] show."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = 16 if pixels.dtype.itemsize > 1 else 8
    return FileFacts(channels, bits, has_alpha=channels in (2, 4))


def _png_facts(stored: bytes) -> FileFacts:
    bits, colour_type = struct.unpack_from(">BB", stored, 24)
    is_grey = colour_type in (_PNG_GREY, _PNG_GREY_ALPHA)
    has_alpha = colour_type in (_PNG_GREY_ALPHA, _PNG_COLOUR_ALPHA)
    place, orientation = len(_PNG), 1
    while place + 8 <= len(stored):
        length, name = struct.unpack_from(">I4s", stored, place)
        if name == b"eXIf":
            orientation = exif_orientation(stored[place + 8 : place + 8 + length])
        if name == b"IDAT":
            break
        place += length + 12
    has_end = stored.rfind(b"IEND") > 0
    return FileFacts(1 if is_grey else 3, bits, False, has_alpha, orientation, has_end)


def _jpeg_facts(stored: bytes) -> FileFacts:
    """Walk from segment to segment to the first scan; a thumbnail's own end lies before that."""
    place, orientation, bits, channels = len(_JPEG), 1, 8, 0
    while True:
        while stored[place + 1] == 0xFF:
            place += 1
        marker = stored[place + 1]
        place += 2
        if marker in _BARE:
            continue
        if marker == _END_OF_IMAGE[1]:
            return FileFacts(channels, bits, channels == 4, False, orientation)
        (length,) = struct.unpack_from(">H", stored, place)
        if marker in _FRAMES:
            bits, channels = stored[place + 2], stored[place + 7]
        elif marker == _EXIF_SEGMENT and stored[place + 2 : place + 8] == _EXIF:
            orientation = exif_orientation(stored[place + 8 : place + length])
        elif marker == _START_OF_SCAN or length < 2:
            break
        place += length
    has_end = stored.find(_END_OF_IMAGE, place) > 0
    return FileFacts(channels, bits, channels == 4, False, orientation, has_end)
