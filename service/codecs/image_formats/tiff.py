"""TIFF 6.0: the first page, of 1 to 8 bits in any colour space but Lab, or 16 bits grey or RGB."""

import re
import struct
from math import ceil
from operator import add

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from service.codecs.image_formats.base import (
    ImageFormat,
    ImageHeader,
    cut_off,
    damaged,
    not_served,
    padded_pixels,
)
from service.codecs.image_formats.decoders import decode_with_opencv, decode_with_pillow
from service.codecs.image_formats.pixels import to_bgr
from service.codecs.image_formats.tiff_directory import (
    Directory,
    orientation_of,
    read_directory,
)

_NAME = "tiff"

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_T4_OPTIONS, _T6_OPTIONS, _PREDICTOR, _COLOR_MAP = 292, 293, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES = 338, 339, 347
_YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _YCBCR_POSITION, _REFERENCE = 529, 530, 531, 532
_ICC_PROFILE = 34675

_SCALARS = frozenset(
    (
        _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS_PER_STRIP,
        _PLANAR, _T4_OPTIONS, _T6_OPTIONS, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _YCBCR_POSITION,
    )
)  # fmt: skip
_ARRAYS = frozenset(
    (
        _BITS, _STRIP_OFFSETS, _STRIP_BYTES, _COLOR_MAP, _TILE_OFFSETS, _TILE_BYTES,
        _EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES, _YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING,
        _REFERENCE,
    )
)  # fmt: skip

# None, the three of fax, LZW, JPEG, deflate under its two numbers, PackBits. Others are rare, and
# some take memory that no header of ours tells: a dictionary of LZMA has up to 4 GiB.
_JPEG = 7
_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946))

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_UNSIGNED = 1
_INTERLEAVED, _SEPARATE_PLANES = 1, 2

# Colour, transparency, and some that are passed over.
_MAX_SAMPLES = 8

# A decoder holds one tile at a time, whatever the size of the image.
_MAX_TILE_PIXELS = 1 << 24
_MAX_PARTS = 100_000

# Of a file whose strips or tiles are JPEGs of several scans each, as for JPEG itself.
_MAX_SCANNED_PIXELS = 1 << 31
_START_OF_SCAN = b"\xff\xda"


def read_header(data: bytes) -> ImageHeader:
    """Read the first directory, and compare the file's length with the parts it states."""
    directory = read_directory(data)
    width, height = directory.integer(_WIDTH), directory.integer(_HEIGHT)
    if width == 0 or height == 0:
        raise damaged(_NAME, "it has no size")
    _check_kind(directory)
    _check_complete(directory, width, height)
    return ImageHeader(
        _NAME,
        width,
        height,
        _working_bytes(directory, width, height),
        orientation_of(directory),
        has_icc_profile=_ICC_PROFILE in directory.entries,
    )


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode the first page. 16 bits go through OpenCV, as Pillow cuts them to the high byte."""
    directory = read_directory(data)
    page = _single_page_file(directory)
    if max(_bits_per_sample(directory)) <= 8:
        return decode_with_pillow(_NAME, page, TiffImageFile)
    pixels = decode_with_opencv(_NAME, page)
    if directory.integer(_PHOTOMETRIC) == _MIN_IS_WHITE:
        pixels = cv2.bitwise_not(pixels)
    return to_bgr(pixels)


def _bits_per_sample(directory: Directory) -> tuple[int, ...]:
    return directory.integers(_BITS, default=(1,), most=_MAX_SAMPLES)


def _working_bytes(directory: Directory, width: int, height: int) -> int:
    """Memory that the two decoders take; copies of the file are the smaller part of it."""
    bits = _bits_per_sample(directory)
    num_samples = max(directory.integer(_SAMPLES, 1), len(bits))
    if max(bits) > 8:
        # OpenCV's picture, and its copy for us or the only strip.
        bytes_per_pixel = 6 if num_samples == 1 else 4 * num_samples
    else:
        # Pillow's picture, and what the only strip takes or the picture that is made of it.
        bytes_per_pixel = (1 if num_samples == 1 else 4) + max(3, _strip_bytes_per_pixel(directory))
    return bytes_per_pixel * padded_pixels(width, height) + 3 * len(directory.data)


def _strip_bytes_per_pixel(directory: Directory) -> int:
    """The strip; beside it the coefficients of a JPEG, and the colours that YCbCr becomes."""
    num_samples = directory.integer(_SAMPLES, 1)
    coefficients = 2 * num_samples if directory.integer(_COMPRESSION) == _JPEG else 0
    colours = 4 if directory.integer(_PHOTOMETRIC) == _YCBCR else 0
    return num_samples + coefficients + colours


def _check_kind(directory: Directory) -> None:
    bits = _bits_per_sample(directory)
    photometric = directory.integer(_PHOTOMETRIC)
    num_samples = directory.integer(_SAMPLES, 1)
    sample_formats = directory.integers(_SAMPLE_FORMAT, default=(_UNSIGNED,), most=_MAX_SAMPLES)
    if num_samples > _MAX_SAMPLES:
        raise not_served(f"TIFF of {num_samples} channels")
    if (compression := directory.integer(_COMPRESSION, 1)) not in _COMPRESSIONS:
        raise not_served(f"TIFF in compression {compression}")
    if set(sample_formats) != {_UNSIGNED}:
        raise not_served("TIFF with signed or floating-point pixels")
    if max(bits) <= 8 and photometric in (
        _MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR
    ):  # fmt: skip
        return
    sixteen_bits = (
        (photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK) and num_samples == 1)
        or (photometric == _RGB and num_samples in (3, 4))
    ) and directory.integer(_PLANAR, _INTERLEAVED) == _INTERLEAVED
    if set(bits) != {16} or not sixteen_bits:
        raise not_served(f"TIFF of {max(bits)} bits in colour space {photometric}")


def _check_complete(directory: Directory, width: int, height: int) -> None:
    """Every strip or tile must be there: decoders leave what is missing black."""
    tiled = _TILE_OFFSETS in directory.entries
    num_parts = _num_tiles(directory, width, height) if tiled else _num_strips(directory, height)
    if directory.integer(_PLANAR, _INTERLEAVED) == _SEPARATE_PLANES:
        num_parts *= directory.integer(_SAMPLES, 1)
    if num_parts > _MAX_PARTS or directory.longest(_ARRAYS) > _MAX_PARTS:
        raise damaged(_NAME, f"it has more than {_MAX_PARTS} strips or tiles")
    offsets = directory.integers(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, most=_MAX_PARTS)
    sizes = directory.integers(_TILE_BYTES if tiled else _STRIP_BYTES, most=_MAX_PARTS)
    if num_parts == 0 or min(len(offsets), len(sizes)) < num_parts:
        raise damaged(_NAME, "strips or tiles are missing")
    if max(map(add, offsets, sizes)) > len(directory.data):
        raise cut_off(_NAME)
    if directory.integer(_COMPRESSION) == _JPEG:
        pixels_of_part = _pixels_of_tile(directory) if tiled else width * height // num_parts
        _check_scans(directory.data, sum(sizes), num_parts, pixels_of_part)


def _check_scans(data: bytes, num_bytes: int, num_parts: int, pixels_of_part: int) -> None:
    """JPEGs inside: a small file of many scans would keep a core busy, or one decoded again."""
    if num_bytes > len(data):
        raise damaged(_NAME, "its strips or tiles overlap")
    num_scans = data.count(_START_OF_SCAN)
    if num_scans > num_parts and num_scans * pixels_of_part > _MAX_SCANNED_PIXELS:
        raise damaged(_NAME, "it has too many scans")


def _num_strips(directory: Directory, height: int) -> int:
    rows_per_strip = directory.integer(_ROWS_PER_STRIP, height)
    return ceil(height / rows_per_strip) if rows_per_strip else 0


def _num_tiles(directory: Directory, width: int, height: int) -> int:
    tile_width, tile_height = directory.integer(_TILE_WIDTH), directory.integer(_TILE_HEIGHT)
    if not 0 < _pixels_of_tile(directory) <= _MAX_TILE_PIXELS:
        raise damaged(_NAME, f"its tiles must have 1 to {_MAX_TILE_PIXELS} pixels")
    across, down = ceil(width / tile_width), ceil(height / tile_height)
    # Tiles are decoded whole, so what they cover is the work.
    if across * tile_width * down * tile_height > 2 * width * height + (1 << 22):
        raise damaged(_NAME, "its tiles are far larger than the picture")
    return across * down


def _pixels_of_tile(directory: Directory) -> int:
    return directory.integer(_TILE_WIDTH) * directory.integer(_TILE_HEIGHT)


def _single_page_file(directory: Directory) -> bytes:
    """The same bytes with a new directory at the end: only the tags that make pixels."""
    entries = [
        entry.raw
        for tag, entry in sorted(directory.entries.items())
        if tag in _ARRAYS or (tag in _SCALARS and entry.count == 1)
        if entry.end <= len(directory.data)
    ]
    data, order = directory.data, directory.byte_order
    padding = bytes(len(data) % 2)
    return b"".join(
        (
            data[:4],
            struct.pack(f"{order}I", len(data) + len(padding)),
            data[8:],
            padding,
            struct.pack(f"{order}H", len(entries)),
            *entries,
            struct.pack(f"{order}I", 0),
        )
    )


FORMAT = ImageFormat(_NAME, re.compile(rb"II\*\0|MM\0\*"), read_header, read_pixels)
