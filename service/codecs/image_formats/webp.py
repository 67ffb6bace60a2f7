"""WebP (RFC 9649), lossy or lossless, with or without alpha; of an animation the first frame."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.codecs.image_formats.base import (
    ImageFormat,
    ImageHeader,
    cut_off,
    damaged,
    padded_pixels,
)
from service.codecs.image_formats.decoders import decode_with_opencv
from service.codecs.image_formats.pixels import on_white_canvas, to_bgr
from service.codecs.image_formats.tiff_directory import exif_orientation

_NAME = "webp"
_FILE_HEADER_BYTES = 12
_FRAME_HEADER_BYTES = 16
_FLAG_ALPHA = 0x10

# A sound file has a handful of chunks, an animation one for each frame.
_MAX_CHUNKS = 100_000


@dataclass(frozen=True)
class _Chunk:
    """One RIFF chunk: its kind, and where its contents lie in the file."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True)
class _Picture:
    """The still image or the first frame: its bitstream, and its place on the canvas."""

    bitstream: _Chunk
    alpha: _Chunk | None
    left: int
    top: int
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Read the chunks' headers, and the size that the bitstream states."""
    chunks = _chunks_by_kind(data)
    picture = _first_picture(data, chunks)
    width, height = _canvas_size(data, chunks, picture)
    exif = chunks.get(b"EXIF")
    # Where there may be transparency, its plane is decoded through one of four bytes.
    is_lossy_and_opaque = picture.bitstream.kind == b"VP8 " and picture.alpha is None
    bytes_per_pixel = 6 if is_lossy_and_opaque else 10
    return ImageHeader(
        _NAME,
        width,
        height,
        bytes_per_pixel * padded_pixels(width, height) + 4 * len(data),
        orientation=exif_orientation(data[exif.start : exif.end]) if exif else 1,
        animated=b"ANMF" in chunks,
        has_icc_profile=b"ICCP" in chunks,
    )


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode the first frame alone, and lay it on the canvas."""
    chunks = _chunks_by_kind(data)
    picture = _first_picture(data, chunks)
    width, height = _canvas_size(data, chunks, picture)
    frame_bgr = to_bgr(decode_with_opencv(_NAME, _still_file(data, picture)))
    return on_white_canvas(frame_bgr, picture.left, picture.top, width, height)


def _chunks_by_kind(data: bytes) -> dict[bytes, _Chunk]:
    """The first chunk of each kind in the file."""
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    if riff_bytes + 8 > len(data):
        raise cut_off(_NAME)
    return _first_of_each(_chunks(data, _FILE_HEADER_BYTES, riff_bytes + 8))


def _first_of_each(chunks: Iterator[_Chunk]) -> dict[bytes, _Chunk]:
    by_kind: dict[bytes, _Chunk] = {}
    for chunk in chunks:
        by_kind.setdefault(chunk.kind, chunk)
    return by_kind


def _chunks(data: bytes, start: int, end: int) -> Iterator[_Chunk]:
    for _ in range(_MAX_CHUNKS):
        if start + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, start)
        start += 8
        if start + length > end:
            raise damaged(_NAME, "a chunk is longer than the file")
        yield _Chunk(kind, start, start + length)
        start += length + length % 2
    raise damaged(_NAME, f"it has more than {_MAX_CHUNKS} chunks")


def _first_picture(data: bytes, chunks: dict[bytes, _Chunk]) -> _Picture:
    """Find the bitstream, in the file itself or in its first animation frame."""
    left = top = 0
    frame = chunks.get(b"ANMF")
    if frame:
        # Offsets are stored halved.
        left, top = (2 * _uint24(data, frame.start + 3 * index) for index in (0, 1))
        chunks = _first_of_each(_chunks(data, frame.start + _FRAME_HEADER_BYTES, frame.end))
    if lossy := chunks.get(b"VP8 "):
        width, height = struct.unpack_from("<HH", data, lossy.start + 6)
        # The two high bits are a hint for scaling.
        width, height = width & 0x3FFF, height & 0x3FFF
        if width == 0 or height == 0:
            raise damaged(_NAME, "it has no size")
        return _Picture(lossy, chunks.get(b"ALPH"), left, top, width, height)
    if lossless := chunks.get(b"VP8L"):
        (bits,) = struct.unpack_from("<I", data, lossless.start + 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return _Picture(lossless, None, left, top, width, height)
    raise damaged(_NAME, "it has no pixels")


def _canvas_size(data: bytes, chunks: dict[bytes, _Chunk], picture: _Picture) -> tuple[int, int]:
    """Width and height of the canvas; the picture must lie inside, a still one must fill it."""
    width, height = picture.width, picture.height
    if extended := chunks.get(b"VP8X"):
        width = _uint24(data, extended.start + 4) + 1
        height = _uint24(data, extended.start + 7) + 1
    right, bottom = picture.left + picture.width, picture.top + picture.height
    if right > width or bottom > height:
        raise damaged(_NAME, "a frame reaches beyond the canvas")
    if b"ANMF" not in chunks and (right, bottom) != (width, height):
        raise damaged(_NAME, "its two sizes differ")
    return width, height


def _still_file(data: bytes, picture: _Picture) -> bytes:
    """A file of this picture alone."""
    parts = [_chunk_bytes(picture.bitstream.kind, _contents(data, picture.bitstream))]
    if picture.alpha:
        size = (picture.width - 1).to_bytes(3, "little") + (picture.height - 1).to_bytes(
            3, "little"
        )
        parts.insert(0, _chunk_bytes(b"ALPH", _contents(data, picture.alpha)))
        parts.insert(0, _chunk_bytes(b"VP8X", bytes((_FLAG_ALPHA, 0, 0, 0)) + size))
    return _chunk_bytes(b"RIFF", b"WEBP" + b"".join(parts))


def _contents(data: bytes, chunk: _Chunk) -> bytes:
    return data[chunk.start : chunk.end]


def _chunk_bytes(kind: bytes, contents: bytes) -> bytes:
    return kind + struct.pack("<I", len(contents)) + contents + bytes(len(contents) % 2)


def _uint24(data: bytes, position: int) -> int:
    low, high = struct.unpack_from("<HB", data, position)
    return low | high << 16


FORMAT = ImageFormat(_NAME, re.compile(rb"RIFF.{4}WEBP", re.DOTALL), read_header, read_pixels)
