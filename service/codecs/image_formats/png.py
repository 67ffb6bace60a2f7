"""PNG (third edition), of 1 to 16 bits, interlaced or not; of an animated PNG the default image."""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from service.codecs.image_formats.base import (
    ImageFormat,
    ImageHeader,
    cut_off,
    damaged,
    padded_pixels,
)
from service.codecs.image_formats.decoders import decode_with_opencv, decode_with_pillow
from service.codecs.image_formats.pixels import to_bgr
from service.codecs.image_formats.tiff_directory import exif_orientation

_NAME = "png"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}

# Encoders write chunks of 8 KiB and more; this only bounds the time of the walk.
_MAX_CHUNKS = 200_000

_INFLATED_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class _Kind:
    """What the header says of pixels; `bits` are those of a channel."""

    width: int
    height: int
    bits: int
    colour: int
    has_transparent_colour: bool

    @property
    def suits_pillow(self) -> bool:
        """Pillow cuts 16 bits to the high byte."""
        return self.bits <= 8

    @property
    def working_bytes_per_pixel(self) -> int:
        """The decoder's own picture, and what is made of it."""
        if self.suits_pillow:
            return 4 if self.colour in (_GREY, _PALETTE) else 7
        is_transparent = self.has_transparent_colour or self.colour in (_GREY_ALPHA, _RGB_ALPHA)
        num_channels = 4 if is_transparent else _CHANNELS[self.colour]
        return max(6, 4 * num_channels)

    @property
    def most_inflated_bytes(self) -> int:
        """More than the pixels take before they are compressed, interlaced or not."""
        row_bytes = 1 + (self.width * self.bits * _CHANNELS[self.colour] + 7) // 8
        return 2 * self.height * row_bytes + (1 << 20)


def read_header(data: bytes) -> ImageHeader:
    """Read the chunks' headers up to the end."""
    orientation: int | None = None
    kinds: set[bytes] = set()
    for kind, start, end in _chunks(data):
        if kind == b"eXIf" and orientation is None:
            orientation = exif_orientation(data[start:end])
        kinds.add(kind)
    kind = _kind(data, has_transparent_colour=b"tRNS" in kinds)
    working_bytes = kind.working_bytes_per_pixel * padded_pixels(kind.width, kind.height)
    return ImageHeader(
        _NAME,
        kind.width,
        kind.height,
        working_bytes + 2 * len(data),
        orientation or 1,
        animated=b"acTL" in kinds,
        has_icc_profile=b"iCCP" in kinds,
    )


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode the chunks that make pixels, once their sums are checked."""
    parts = _pixel_parts(data)
    kind = _kind(data, has_transparent_colour=b"tRNS" in parts)
    if kind.suits_pillow:
        if kind.colour == _GREY and len(parts.get(b"tRNS", b"")) == 2:
            # Pillow compares it with greys of 8 bits, but for pictures of one bit.
            parts[b"tRNS"] = _scaled(parts[b"tRNS"], kind.bits)
        return decode_with_pillow(_NAME, _file_of(parts), PngImageFile)
    # Pillow ends with the last row; libpng goes on to inflate whatever there is.
    _check_inflated_size(parts.get(b"IDAT", b""), kind.most_inflated_bytes)
    return to_bgr(decode_with_opencv(_NAME, _file_of(parts)))


def pixels_only(data: bytes) -> bytes:
    """The file without the chunks that make no pixels, and those that do made one of each kind.

    Text, profiles and the frames of an animation are left out: decoders inflate what they meet, and
    a file of 771 KB with a hundred text chunks kept one busy for 3.2 s.
    """
    return _file_of(_pixel_parts(data))


def _kind(data: bytes, *, has_transparent_colour: bool) -> _Kind:
    start = len(_SIGNATURE) + 8
    width, height, bits, colour = struct.unpack_from(">IIBB", data, start)
    if width == 0 or height == 0:
        raise damaged(_NAME, "it has no size")
    if colour not in _CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise damaged(_NAME, f"its pixels are of type {colour} with {bits} bits")
    return _Kind(width, height, bits, colour, has_transparent_colour)


def _pixel_parts(data: bytes) -> dict[bytes, bytes]:
    """The contents of the chunks that make pixels, by kind, in the order that a file has them."""
    found: dict[bytes, list[bytes]] = {b"IHDR": [], b"PLTE": [], b"tRNS": [], b"IDAT": []}
    view = memoryview(data)
    for kind, start, end in _chunks(data):
        if kind in found:
            (checksum,) = struct.unpack_from(">I", data, end)
            if zlib.crc32(view[start - 4 : end]) != checksum:
                raise damaged(_NAME, "a chunk is damaged")
            found[kind].append(data[start:end])
    found = {kind: each if kind == b"IDAT" else each[:1] for kind, each in found.items()}
    return {kind: b"".join(each) for kind, each in found.items() if each}


def _file_of(parts: dict[bytes, bytes]) -> bytes:
    pieces = [_SIGNATURE]
    for kind, contents in (*parts.items(), (b"IEND", b"")):
        checksum = zlib.crc32(contents, zlib.crc32(kind))
        pieces += [struct.pack(">I", len(contents)), kind, contents, struct.pack(">I", checksum)]
    return b"".join(pieces)


def _scaled(grey: bytes, bits: int) -> bytes:
    (value,) = struct.unpack(">H", grey)
    return struct.pack(">H", value * {1: 1, 2: 85, 4: 17, 8: 1}[bits] & 0xFFFF)


def _check_inflated_size(compressed: bytes, most_bytes: int) -> None:
    """A file of 9 MB kept libpng busy for 30 s with what lay behind its ten rows."""
    inflating = zlib.decompressobj()
    num_bytes = 0
    # Where the stream is damaged libpng ends too, and judges whether it has all rows.
    with suppress(zlib.error):
        for start in range(0, len(compressed), _INFLATED_AT_ONCE):
            waiting = compressed[start : start + _INFLATED_AT_ONCE]
            while waiting and not inflating.eof:
                num_bytes += len(inflating.decompress(waiting, _INFLATED_AT_ONCE))
                waiting = inflating.unconsumed_tail
                if num_bytes > most_bytes:
                    raise damaged(_NAME, "it has far more pixels than its size")


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
