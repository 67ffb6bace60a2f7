"""What decoders return becomes BGR uint8, as a viewer shows it: pure functions on arrays.

Everything goes through OpenCV, which lets other Python threads run meanwhile. Several steps on a
picture are done band by band, so that only the first and the last state of it are held as a whole.
"""

from collections.abc import Iterator
from typing import cast

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

#: What transparent pixels show: the page of a browser or viewer.
WHITE = 255

#: A band small enough for its steps to stay in a processor's cache.
_BAND_PIXELS = 1 << 16


def to_bgr(pixels: MatLike) -> NDArray[np.uint8]:
    """Grey [h, w], BGR [h, w, 3] or BGRA [h, w, 4] of 8 or 16 bits to BGR uint8 [h, w, 3].

    16 bits are scaled by the type's maximum and rounded, v * 255 / 65535, not cut to the high byte.
    """
    if pixels.dtype == np.uint8 and pixels.ndim == 2:
        return as_uint8(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return as_uint8(pixels)
    bgr = np.empty((*pixels.shape[:2], 3), np.uint8)
    for band in bands(*pixels.shape[:2]):
        bgr[band] = _band_to_bgr(pixels[band])
    return bgr


def bands(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture, some at a time."""
    num_rows = max(1, _BAND_PIXELS // width)
    for first in range(0, height, num_rows):
        yield slice(first, min(first + num_rows, height))


def _band_to_bgr(pixels: MatLike) -> NDArray[np.uint8]:
    eight_bits = to_eight_bits(pixels)
    if eight_bits.ndim == 2:
        return as_uint8(cv2.cvtColor(eight_bits, cv2.COLOR_GRAY2BGR))
    if eight_bits.shape[2] == 4:
        return over_white(eight_bits)
    return eight_bits


def to_eight_bits(pixels: MatLike) -> NDArray[np.uint8]:
    """`pixels` itself if uint8; uint16 scaled to the range of uint8."""
    if pixels.dtype == np.uint8:
        return as_uint8(pixels)
    return as_uint8(cv2.convertScaleAbs(pixels, alpha=255 / 65535))


def over_white(pixels_bgra: MatLike) -> NDArray[np.uint8]:
    """Lay BGRA [h, w, 4], not premultiplied, over white: 255 - (255 - colour) * alpha / 255."""
    bgr = cv2.cvtColor(pixels_bgra, cv2.COLOR_BGRA2BGR)
    alpha = cv2.extractChannel(pixels_bgra, 3)
    if alpha.min() == 255:
        return as_uint8(bgr)
    alpha_bgr = cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR)
    ink = cv2.multiply(cv2.bitwise_not(bgr), alpha_bgr, scale=1 / 255)
    return as_uint8(cv2.bitwise_not(ink))


def on_white_canvas(
    frame_bgr: NDArray[np.uint8], left: int, top: int, width: int, height: int
) -> NDArray[np.uint8]:
    """The frame at its place on a white canvas; the frame itself where it covers the canvas."""
    if frame_bgr.shape[:2] == (height, width):
        return frame_bgr
    canvas = np.full((height, width, 3), WHITE, np.uint8)
    canvas[top : top + frame_bgr.shape[0], left : left + frame_bgr.shape[1]] = frame_bgr
    return canvas


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels [h, w, 3] as EXIF `orientation` says (EXIF 2.32, tag 0x0112)."""
    match orientation:
        case 2:
            return as_uint8(cv2.flip(pixels, 1))
        case 3:
            return as_uint8(cv2.rotate(pixels, cv2.ROTATE_180))
        case 4:
            return as_uint8(cv2.flip(pixels, 0))
        case 5:
            return as_uint8(cv2.transpose(pixels))
        case 6:
            return as_uint8(cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE))
        case 7:
            turned = cv2.transpose(pixels)
            return as_uint8(cv2.flip(turned, -1, dst=turned))
        case 8:
            return as_uint8(cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE))
        case _:
            return pixels


def as_uint8(pixels: MatLike) -> NDArray[np.uint8]:
    """Tell the type checker what OpenCV's annotations leave open."""
    assert pixels.dtype == np.uint8
    return cast("NDArray[np.uint8]", pixels)
