"""The bytes of a picture become its pixels, as a viewer would show them, within limits.

Upright by EXIF, 3 channels, first frame, transparency over white, ICC profiles ignored. Limits are
checked on the header alone, before anything is allocated. Every way into the service comes here.
"""

import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.codecs.image_formats import bmp, gif, jpeg, png, tiff, webp
from service.codecs.image_formats.base import (
    ImageFormat,
    ImageHeader,
    cut_off,
    damaged,
    not_served,
)
from service.codecs.image_formats.pixels import upright
from service.errors import ImageTooLarge, UndecodableImage

__all__ = ["FORMAT_NAMES", "DecodedImage", "ImageHeader", "ImageLimits", "decode", "probe"]

_FORMATS = (jpeg.FORMAT, png.FORMAT, webp.FORMAT, gif.FORMAT, tiff.FORMAT, bmp.FORMAT)

#: What is read, by name.
FORMAT_NAMES = tuple(image_format.name for image_format in _FORMATS)

# Kinds that people do send, so that they learn what to do instead of "no image".
_NOT_SERVED = {
    "HEIC": re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL),
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "Big TIFF": re.compile(rb"II\+\0|MM\0\+"),
    "Photoshop": re.compile(rb"8BPS"),
    "SVG": re.compile(rb"\s*(?:<\?xml|<svg)"),
    "PDF": re.compile(rb"%PDF-"),
}


#: Longest side of a picture: encoders end near here, and the weights of a mask's enlargement, kept
#: for each side length, stay small.
MAX_SIDE = 65_535


@dataclass(frozen=True)
class ImageLimits:
    """The largest file in bytes, and the largest picture in pixels (width * height)."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class DecodedImage:
    """An upright picture: BGR uint8 [height, width, 3], contiguous, and its file's header."""

    pixels_bgr: NDArray[np.uint8]
    header: ImageHeader

    @property
    def width(self) -> int:
        """Pixels across, upright."""
        return self.pixels_bgr.shape[1]

    @property
    def height(self) -> int:
        """Pixels down, upright."""
        return self.pixels_bgr.shape[0]


def probe(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Read the header of an image file; nothing is decoded or inflated, memory stays flat.

    Raises `ImageTooLarge`, `UnsupportedMediaType` or `UndecodableImage`.
    """
    return _probe(data, limits)[1]


def decode(data: bytes, limits: ImageLimits) -> DecodedImage:
    """Probe, then decode and turn upright.

    Transparent pixels show white, the page that viewers and browsers put behind a picture. Damage
    that leaves a file complete (a wrong byte amid a JPEG's scan) is shown as a viewer shows it;
    a file that is cut off is refused. Raises what `probe` raises.
    """
    image_format, header = _probe(data, limits)
    try:
        pixels = image_format.read_pixels(data)
    except (struct.error, IndexError) as error:
        raise cut_off(header.format) from error
    if pixels.shape[:2] != (header.height, header.width):
        raise damaged(header.format, "its pixels are not of the size that its header states")
    return DecodedImage(np.ascontiguousarray(upright(pixels, header.orientation)), header)


def _probe(data: bytes, limits: ImageLimits) -> tuple[ImageFormat, ImageHeader]:
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"The image has {len(data)} bytes, more than the {limits.max_bytes} allowed: "
            "scale it down or compress it more.",
            limits={"max_image_bytes": limits.max_bytes},
        )
    image_format = _format_of(data)
    try:
        header = image_format.read_header(data)
    except (struct.error, IndexError) as error:
        raise cut_off(image_format.name) from error
    if max(header.width, header.height) > MAX_SIDE:
        raise ImageTooLarge(
            f"The image has {header.width} x {header.height} pixels, more than {MAX_SIDE} on a "
            "side: scale it down.",
            limits={"max_image_side": MAX_SIDE},
        )
    if header.width * header.height > limits.max_pixels:
        raise ImageTooLarge(
            f"The image has {header.width} x {header.height} = {header.width * header.height} "
            f"pixels, more than the {limits.max_pixels} allowed: scale it down.",
            limits={"max_image_pixels": limits.max_pixels},
        )
    return image_format, header


def _format_of(data: bytes) -> ImageFormat:
    if not data:
        raise UndecodableImage("The image is empty (0 bytes): send the bytes of an image file.")
    for image_format in _FORMATS:
        if image_format.signature.match(data):
            return image_format
    for name, signature in _NOT_SERVED.items():
        if signature.match(data):
            raise not_served(name)
    names = ", ".join(image_format.name.upper() for image_format in _FORMATS)
    raise UndecodableImage(f"The bytes are no image of a known format: send one of {names}.")
