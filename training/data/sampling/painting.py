"""Pixels of a layout: what is seen of each image goes straight into the finished window."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from model.preprocess import PAD_VALUE
from training.data.sampling.colours import shift_colours
from training.data.sampling.geometry import Affine
from training.data.sampling.images import Pixels
from training.data.sampling.placements import Layout, Placement, Size

_RIM = 1

#: cv2.flip's names of the axes, by (across, down).
_FLIP_CODES = {(True, False): 1, (False, True): 0, (True, True): -1}


def paint(
    layout: Layout,
    images: Sequence[Pixels],
    input_size: Size,
    shifts: NDArray[np.int16] | None,
) -> Pixels:
    """The sample's picture [h, w, 3]: painted, colours shifted, mirrored, then padded.

    The grey between the images of a mosaic takes part in the shift of colours, padding does not.
    """
    window = _window(layout, images)
    if shifts is not None:
        window = shift_colours(window, shifts)
    full = (layout.height, layout.width) == input_size
    mirrored = (layout.across, layout.down)
    if full and not any(mirrored):
        return window
    picture = np.empty((*input_size, 3), np.uint8)
    inner = picture[: layout.height, : layout.width]
    if any(mirrored):
        cv2.flip(window, _FLIP_CODES[mirrored], dst=inner)
    else:
        inner[...] = window
    picture[layout.height :] = PAD_VALUE
    picture[: layout.height, layout.width :] = PAD_VALUE
    return picture


def _window(layout: Layout, images: Sequence[Pixels]) -> Pixels:
    window = np.empty((layout.height, layout.width, 3), np.uint8)
    if layout.turn_rad:
        _fill_turned(window, layout, is_mosaic=len(images) > 1)
    elif len(images) > 1:
        window[...] = PAD_VALUE
    for image, placement in zip(images, layout.placements, strict=True):
        if placement is None:
            continue
        if layout.turn_rad:
            _warp(image, placement, window)
        else:
            _resize(image, placement, window)
    return window


def _resize(image: Pixels, placement: Placement, window: Pixels) -> None:
    source, target = placement.source, placement.region
    part = image[source.top : source.bottom, source.left : source.right]
    # Given as a factor, the scale is used as it is; given a size, OpenCV would fit one to it.
    resized = cv2.resize(part, None, fx=placement.scale, fy=placement.scale)
    left, top = placement.start
    window[target.top : target.bottom, target.left : target.right] = resized[
        target.top - top : target.bottom - top, target.left - left : target.right - left
    ]


def _warp(image: Pixels, placement: Placement, window: Pixels) -> None:
    source = placement.source
    part = image[source.top : source.bottom, source.left : source.right]
    # What is not between four pixels is left out; with a rim, the outermost pixels are painted too.
    rimmed = cv2.copyMakeBorder(part, _RIM, _RIM, _RIM, _RIM, cv2.BORDER_REPLICATE)
    cv2.warpAffine(
        rimmed,
        _between_centres(placement.affine, source.left - _RIM, source.top - _RIM),
        (window.shape[1], window.shape[0]),
        dst=window,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def _between_centres(affine: Affine, left: int, top: int) -> Affine:
    """The map of pixel indices, which stand for centres, from a part that begins at (left, top)."""
    moved = affine.copy()
    moved[:, 2] += affine[:, :2] @ (np.array([left, top]) + 0.5) - 0.5
    return moved


def _fill_turned(window: Pixels, layout: Layout, *, is_mosaic: bool) -> None:
    """Black, as published, where the turned canvas does not reach; grey between its images."""
    window[...] = 0
    if is_mosaic:
        corners = layout.turned_canvas
        cv2.fillConvexPoly(window, np.round(corners).astype(np.int32), (PAD_VALUE,) * 3)
