"""GIF87a and GIF89a: the first frame on the logical screen."""

import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.GifImagePlugin import GifImageFile

from service.codecs.image_formats.base import ImageFormat, ImageHeader, damaged, padded_pixels
from service.codecs.image_formats.decoders import decode_with_pillow
from service.codecs.image_formats.pixels import on_white_canvas

_NAME = "gif"
_SCREEN_BYTES = 13
_DESCRIPTOR_BYTES = 10
_EXTENSION, _IMAGE, _TRAILER = b"!", b",", b";"
_GRAPHIC_CONTROL = 0xF9

# Blocks are of 255 bytes but for the last of each chain; a file of millions of tiny ones would take
# seconds to walk through.
_MAX_BLOCKS = 500_000


@dataclass(frozen=True)
class _Frame:
    """The first frame: its rectangle on the screen and where its bytes lie in the file."""

    left: int
    top: int
    width: int
    height: int
    #: The extension that tells which palette entry is transparent; empty if there is none.
    graphic_control: bytes
    start: int
    end: int


def read_header(data: bytes) -> ImageHeader:
    """Walk the blocks up to the second frame."""
    frame = _first_frame(data)
    width, height = _canvas_size(data, frame)
    if width == 0 or height == 0 or frame.width == 0 or frame.height == 0:
        raise damaged(_NAME, "it has no size")
    # The palette's indices, the frame and the canvas; beside them copies of the file.
    working_bytes = 7 * padded_pixels(width, height) + 2 * len(data)
    animated = _has_image(data, frame.end)
    return ImageHeader(_NAME, width, height, working_bytes, animated=animated)


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode the first frame alone, and lay it on the screen."""
    frame = _first_frame(data)
    frame_bgr = decode_with_pillow(_NAME, first_frame_only(data), GifImageFile)
    return on_white_canvas(frame_bgr, frame.left, frame.top, *_canvas_size(data, frame))


def first_frame_only(data: bytes) -> bytes:
    """A file of this frame alone, whose screen is the frame.

    Comments are left out too: Pillow's time to read them grows with the square of their length.
    """
    frame = _first_frame(data)
    flags = data[10]
    return b"".join(
        (
            b"GIF89a",
            struct.pack("<HHBBB", frame.width, frame.height, flags, 0, 0),
            data[_SCREEN_BYTES : _SCREEN_BYTES + _palette_bytes(flags)],
            frame.graphic_control,
            struct.pack("<cHH", _IMAGE, 0, 0),
            data[frame.start + 5 : frame.end],
            _TRAILER,
        )
    )


def _first_frame(data: bytes) -> _Frame:
    graphic_control = b""
    position = _SCREEN_BYTES + _palette_bytes(data[10])
    while data[position : position + 1] == _EXTENSION:
        end = _end_of_blocks(data, position + 2)
        if data[position + 1] == _GRAPHIC_CONTROL:
            graphic_control = data[position:end]
        position = end
    if data[position : position + 1] != _IMAGE:
        raise damaged(_NAME, "it has no frame")
    left, top, width, height, flags = struct.unpack_from("<HHHHB", data, position + 1)
    # Behind the palette one byte gives the size of the first code.
    codes = position + _DESCRIPTOR_BYTES + _palette_bytes(flags) + 1
    end = _end_of_blocks(data, codes)
    return _Frame(left, top, width, height, graphic_control, position, end)


def _has_image(data: bytes, position: int) -> bool:
    """Is there a frame at or after `position`? What cannot be read is none."""
    try:
        while data[position : position + 1] == _EXTENSION:
            position = _end_of_blocks(data, position + 2)
    except IndexError:
        return False
    return data[position : position + 1] == _IMAGE


def _end_of_blocks(data: bytes, position: int) -> int:
    """The position after a chain of sub-blocks, each led by its length, ended by a zero."""
    for _ in range(_MAX_BLOCKS):
        length = data[position]
        position += length + 1
        if length == 0:
            return position
    raise damaged(_NAME, f"it has more than {_MAX_BLOCKS} blocks")


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _canvas_size(data: bytes, frame: _Frame) -> tuple[int, int]:
    """The logical screen, widened where the first frame reaches beyond it, as browsers do."""
    width, height = struct.unpack_from("<HH", data, 6)
    return max(width, frame.left + frame.width), max(height, frame.top + frame.height)


FORMAT = ImageFormat(_NAME, re.compile(rb"GIF8[79]a"), read_header, read_pixels)
