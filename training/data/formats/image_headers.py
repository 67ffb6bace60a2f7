"""The size of an image, read from the head of its file: no pixel is decoded.

JPEG and PNG are read here, other formats are left to OpenCV. Many files are read side by side,
since on network disks each waits for the disk alone.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.decoding import decode_file

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS, _PNG_EXIF = b"IDAT", b"eXIf"
_JPEG = b"\xff\xd8"

#: Markers of frames, all of which state the size: SOF0 to SOF15 without DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Markers without a length: TEM, RST0 to RST7, SOI.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN, _END_OF_IMAGE, _EXIF_SEGMENT = 0xDA, 0xD9, 0xE1
_EXIF_PREFIX = b"Exif\0\0"
_ORIENTATION_TAG = 274
#: The orientation stands at the beginning; a damaged length may be of any size.
_MAX_EXIF = 2**16

#: Orientations of this value or more exchange height and width.
_FIRST_TURNED = 5
_LAST_ORIENTATION = 8

#: Pixels that an image can have along a side and in all: OpenCV decodes no larger ones.
_LARGEST_SIDE, _MOST_PIXELS = 2**20, 2**30

_FILES_AT_ONCE = 16
_FILES_AHEAD = 1024


class UnreadableImage(ValueError):
    """An image file that is missing or says no size."""


@dataclass(frozen=True)
class ImageSize:
    """Height and width as stored, and how EXIF asks to turn the picture: 1 (not at all) to 8.

    In formats that OpenCV reads for us it is found by comparing the pixels.
    """

    height: int
    width: int
    orientation: int = 1

    @property
    def is_turned(self) -> bool:
        """Whether height and width change places when the picture is shown."""
        return self.orientation >= _FIRST_TURNED

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the picture as it is meant to be seen."""
        return (self.width, self.height) if self.is_turned else (self.height, self.width)

    def agrees_with(self, height: int, width: int) -> bool:
        """Whether this may be the file of an image of that size, upright or as stored."""
        return (height, width) in (self.upright, (self.height, self.width))


def read_image_size(path: Path) -> ImageSize:
    """The size that a file states. Raises UnreadableImage, without the path in its message."""
    # Neither a pipe, which would be waited for, nor a device without an end.
    if os.path.exists(path) and not os.path.isfile(path):
        raise UnreadableImage("the image file is no file")
    try:
        with path.open("rb") as file:
            size = _read_size(file) or _decoded_size(path)
    except UnreadableImage:
        raise
    except (FileNotFoundError, ValueError):
        # Names with a zero byte or half a character cannot be those of a file.
        raise UnreadableImage("the image file is missing") from None
    except OSError as error:
        raise UnreadableImage(f"the image file cannot be read: {error.strerror}") from error
    except (struct.error, IndexError) as error:
        raise UnreadableImage("the image file is damaged or cut off") from error
    if size.height < 1 or size.width < 1:
        raise UnreadableImage("the image file states no size")
    if max(size.height, size.width) > _LARGEST_SIDE or size.height * size.width > _MOST_PIXELS:
        stated = f"{size.width}x{size.height} pixels"
        raise UnreadableImage(f"the image file states {stated}, more than can be decoded")
    return size


def read_image_sizes(paths: Iterable[Path]) -> Iterator[ImageSize | UnreadableImage]:
    """The sizes of many files in their order, the error in place of a size where there is none."""

    def tried(path: Path) -> ImageSize | UnreadableImage:
        try:
            return read_image_size(path)
        except UnreadableImage as error:
            return error

    remaining = iter(paths)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        while chunk := list(islice(remaining, _FILES_AHEAD)):
            yield from pool.map(tried, chunk)


def _read_size(file: BinaryIO) -> ImageSize | None:
    head = file.read(24)
    if head.startswith(_PNG):
        width, height = struct.unpack_from(">II", head, 16)
        file.seek(len(_PNG))
        return ImageSize(height, width, _png_orientation(file))
    if head.startswith(_JPEG):
        file.seek(len(_JPEG))
        return _jpeg_size(file)
    return None


def _decoded_size(path: Path) -> ImageSize:
    # As stored, and as seen: it is WebP whose metadata may differ from its pixels.
    colour = cv2.IMREAD_COLOR
    stored, upright = (
        decode_file(path, flags) for flags in (colour | cv2.IMREAD_IGNORE_ORIENTATION, colour)
    )
    if stored is None or upright is None:
        raise UnreadableImage("the file is no image that can be read")
    candidates = range(1, _LAST_ORIENTATION + 1)
    found = (each for each in candidates if np.array_equal(as_seen(stored, each), upright))
    return ImageSize(*stored.shape[:2], orientation=next(found, 1))


def as_seen(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A picture [h, w, ...] turned as EXIF's `orientation` asks; a view of the same pixels."""
    flips_x, flips_y = orientation in (2, 3, 7, 8), orientation in (3, 4, 6, 7)
    turned = stored[:: -1 if flips_y else 1, :: -1 if flips_x else 1]
    return turned.swapaxes(0, 1) if orientation >= _FIRST_TURNED else turned


def _png_orientation(file: BinaryIO) -> int:
    """Walk from chunk to chunk up to the pixels; EXIF stands before them."""
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == _PNG_EXIF:
            return exif_orientation(file.read(min(length, _MAX_EXIF)))
        if kind == _PNG_PIXELS:
            return 1
        file.seek(length + 4, 1)


def _jpeg_size(file: BinaryIO) -> ImageSize:
    """Walk from segment to segment up to the frame; the orientation stands before it."""
    orientation = 1
    while True:
        marker = _next_marker(file)
        if marker in _BARE:
            continue
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            raise UnreadableImage("the image file is damaged: it states no size")
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _FRAMES:
            _, height, width = struct.unpack(">BHH", file.read(5))
            return ImageSize(height, width, orientation)
        if marker == _EXIF_SEGMENT:
            segment = file.read(length - 2)
            if segment.startswith(_EXIF_PREFIX) and orientation == 1:
                orientation = exif_orientation(segment[len(_EXIF_PREFIX) :])
        else:
            file.seek(length - 2, 1)


def _next_marker(file: BinaryIO) -> int:
    """The next marker; bytes of 0xFF before it are padding."""
    if file.read(1) != b"\xff":
        raise UnreadableImage("the image file is damaged: a JPEG segment has no marker")
    marker = 0xFF
    while marker == 0xFF:
        marker = file.read(1)[0]
    return marker


def exif_orientation(tiff: bytes) -> int:
    """What the first directory of an EXIF block states: 1 to 8, 1 where it is upright or silent."""
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= _LAST_ORIENTATION else 1
    except struct.error:
        # Damaged EXIF is no reason to refuse a picture; decoders pass over it too.
        return 1
    return 1
