"""JPEG (ITU T.81, JFIF, EXIF): the format that nearly all requests use, so the quick one."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
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
from service.codecs.image_formats.tiff_directory import exif_orientation

_NAME = "jpeg"

# The next marker that is neither an escaped 0xff, a fill byte nor a restart marker inside the
# entropy-coded data. Bytes in between are passed over, as libjpeg does.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
_APP1 = 0xE1
_APP2 = 0xE2
# Baseline, extended and progressive, Huffman or arithmetic coding; not lossless or hierarchical.
_PROGRESSIVE = 0xC2
_SERVED_FRAMES = {0xC0, 0xC1, _PROGRESSIVE}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# Sound files have a few dozen segments and at most some dozen scans; a small progressive file of
# thousands of scans would keep a core busy for minutes.
_MAX_SEGMENTS = 10_000
_MAX_SCANS = 100
_MAX_SCANNED_PIXELS = 1 << 31


@dataclass(frozen=True)
class _Frame:
    """What a frame's header states."""

    width: int
    height: int
    num_components: int
    is_progressive: bool


def read_header(data: bytes) -> ImageHeader:
    """Read up to the first scan."""
    frame: _Frame | None = None
    orientation: int | None = None
    has_icc_profile = False
    num_scanned = 0
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            frame = _read_frame(data, marker, start)
        elif marker == _APP1 and orientation is None and data.startswith(b"Exif\0\0", start, end):
            orientation = exif_orientation(data[start:end])
        elif marker == _APP2 and data.startswith(b"ICC_PROFILE\0", start, end):
            has_icc_profile = True
        elif marker in (_START_OF_SCAN, _END_OF_IMAGE):
            num_scanned = data[start] if marker == _START_OF_SCAN else 0
            break
    if frame is None or frame.width == 0 or frame.height == 0:
        raise damaged(_NAME, "it has no frame before its first scan")
    return ImageHeader(
        _NAME,
        frame.width,
        frame.height,
        _working_bytes(frame, num_scanned),
        orientation or 1,
        has_icc_profile=has_icc_profile,
    )


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode; CMYK and YCCK are read as Adobe stores them, inverted, which all viewers do."""
    _check_complete(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return to_bgr(decode_with_opencv(_NAME, data, flags))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of the contents of each segment, up to the end of the image."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None:
            raise cut_off(_NAME)
        marker, start = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            yield marker, start, start
            return
        (length,) = struct.unpack_from(">H", data, start)
        if length < 2:
            raise damaged(_NAME, "a segment has no length")
        position = start + length
        if position > len(data):
            raise cut_off(_NAME)
        yield marker, start + 2, position
    raise damaged(_NAME, f"it has more than {_MAX_SEGMENTS} segments")


def _read_frame(data: bytes, marker: int, start: int) -> _Frame:
    """A frame of a kind that is served."""
    precision, height, width, num_components = struct.unpack_from(">BHHB", data, start)
    if marker not in _SERVED_FRAMES or precision != 8:
        raise not_served(f"JPEG of {precision} bits in frame type 0x{marker:02x}")
    if num_components not in (1, 3, 4):
        raise not_served(f"JPEG of {num_components} components")
    return _Frame(width, height, num_components, marker == _PROGRESSIVE)


def _working_bytes(frame: _Frame, num_scanned: int) -> int:
    """Two pictures at a time; the coefficients of all, where one scan does not have all of them."""
    needs_all = frame.is_progressive or num_scanned < frame.num_components
    bytes_per_pixel = 3 + 2 * frame.num_components if needs_all else 6
    return max(bytes_per_pixel, 6) * padded_pixels(frame.width, frame.height)


def _check_complete(data: bytes) -> None:
    """Refuse a file without its end marker: decoders fill what is missing with grey.

    Bytes after the end marker are fine; cameras and phones put previews and clips there.
    """
    num_scans = pixels = scanned = 0
    for marker, start, _ in _segments(data):
        if marker in _FRAMES:
            frame = _read_frame(data, marker, start)
            pixels = frame.width * frame.height
        elif marker == _START_OF_SCAN:
            num_scans += 1
            # A scan goes through every block of its components, however short it is.
            scanned += pixels * data[start]
    if num_scans > _MAX_SCANS or (num_scans > 1 and scanned > _MAX_SCANNED_PIXELS):
        raise damaged(_NAME, "it has too many scans")


FORMAT = ImageFormat(_NAME, re.compile(rb"\xff\xd8\xff"), read_header, read_pixels)
