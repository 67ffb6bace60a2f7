"""The picture with its detections drawn: masks, boxes, labels; and the picture as a file.

Lines and letters grow with the picture. Weak detections are drawn first, so that strong ones lie on
top; all masks lie under all boxes, and all boxes under all labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, sin
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from model.masks import InstanceMask
from service.codecs.label_layout import (
    Label,
    Rectangle,
    label_beside_box,
    label_beside_corners,
    place_labels,
)
from service.codecs.label_text import CAPITAL_HEIGHT, Typeface, printable
from service.codecs.palette import Bgr, class_colour, contrasting
from service.detection import Detection, RotatedBox
from service.errors import NotAcceptable

_MASK_OPACITY = 0.35
# The part of the light that a line's shadow leaves.
_SHADOW = 0.55
_MAX_JPEG_SIDE = 65_500
# Points are given to OpenCV in sixteenths of a pixel.
_SUBPIXEL_BITS = 4

_TYPEFACE = Typeface()


@dataclass(frozen=True)
class _Style:
    """Measures in pixels that suit a picture of some size and a number of objects."""

    line: int
    halo: int
    letter: int

    @staticmethod
    def of(width: int, height: int, num_detections: int) -> "_Style":
        side = (width * height) ** 0.5
        line = max(1, round(0.6 + side / 500))
        # From 15 objects on letters shrink, at a hundred to three quarters.
        crowding = min(max((15 / max(num_detections, 1)) ** 0.15, 0.75), 1)
        letter = max(9, round((8 + side / 95) * crowding))
        return _Style(line=line, halo=max(1, round(line / 2)), letter=letter)

    @property
    def plate_height(self) -> int:
        return round(1.45 * self.letter)

    @property
    def plate_margin(self) -> int:
        return round(0.35 * self.letter)


def draw_detections(
    image_bgr: NDArray[np.uint8], detections: Sequence[Detection]
) -> NDArray[np.uint8]:
    """A copy of the picture [h, w, 3] with the detections drawn.

    Of a rotated box the turned outline is drawn instead of `box`. Labels that find no room are
    left out, weakest first.
    """
    picture = image_bgr.copy()
    height, width = picture.shape[:2]
    style = _Style.of(width, height, len(detections))
    weakest_first = sorted(detections, key=lambda detection: detection.score)
    for detection in weakest_first:
        if detection.mask is not None:
            _draw_mask(picture, detection.mask, class_colour(detection.class_id), style.line)
    for detection in weakest_first:
        if detection.rotated_box is not None:
            _draw_rotated_box(picture, detection.rotated_box, detection.class_id, style)
        else:
            _draw_box(picture, detection, style)
    _draw_labels(picture, weakest_first[::-1], style)
    return picture


def encode_picture(
    image_bgr: NDArray[np.uint8], format: Literal["jpeg", "png"], quality: int = 90
) -> bytes:
    """The file of a picture [h, w, 3]; `quality`, 1 to 100, is that of JPEG.

    Raises `NotAcceptable` for a picture that is too long for a JPEG.
    """
    if format == "png":
        # Higher levels take many times as long for a few per cent.
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        return cv2.imencode(".png", image_bgr, options)[1].tobytes()
    if max(image_bgr.shape) > _MAX_JPEG_SIDE:
        raise NotAcceptable(
            f"A JPEG has at most {_MAX_JPEG_SIDE} pixels on a side: ask for image/png."
        )
    # With colours at half resolution thin lines and letters would blur.
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", image_bgr, options)[1].tobytes()


def _draw_mask(picture: NDArray[np.uint8], mask: InstanceMask, colour: Bgr, line: int) -> None:
    """Tint the mask's pixels, and draw its outline."""
    crop = mask.crop.view(np.uint8)
    region = picture[mask.y : mask.y + crop.shape[0], mask.x : mask.x + crop.shape[1]]
    if region.size == 0:
        return
    cv2.copyTo(cv2.LUT(region, _tint(colour)), crop, region)
    contours, _ = cv2.findContours(crop, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    # Less than a pixel: it takes the stairs out of slanted edges, and is three times as quick.
    smooth = [cv2.approxPolyDP(contour, 0.7, True) for contour in contours]
    cv2.drawContours(picture, smooth, -1, colour, line, cv2.LINE_AA, offset=(mask.x, mask.y))


def _tint(colour: Bgr) -> NDArray[np.uint8]:
    """What each value of each channel becomes under a translucent `colour`: uint8 [1, 256, 3]."""
    values = np.arange(256)[:, None] * (1 - _MASK_OPACITY) + np.array(colour) * _MASK_OPACITY
    return np.round(values).astype(np.uint8)[None]


def _draw_box(picture: NDArray[np.uint8], detection: Detection, style: _Style) -> None:
    """A frame of whole pixels, so that it is crisp; on a shadow that shows it on any ground.

    Where a mask shows the object already, the box steps back: thinner, and without a shadow.
    """
    height, width = picture.shape[:2]
    line = style.line if detection.mask is None else ceil(style.line / 2)
    outer = _box_frame(detection, line, width, height)
    if detection.mask is None:
        for strip in _strips(outer.grown(style.halo), line + 2 * style.halo):
            ground = _region(picture, strip.cut_to(width, height))
            ground[:] = cv2.convertScaleAbs(ground, alpha=_SHADOW)
    for strip in _strips(outer, line):
        _region(picture, strip)[:] = class_colour(detection.class_id)


def _box_frame(detection: Detection, line: int, width: int, height: int) -> Rectangle:
    """The outer edge of a line along the edge of the box, cut to the picture."""
    left, top, right, bottom = detection.box
    # Halves always go up; Python's rounding to even would let a moving box jitter.
    first, last = (1 - line) / 2, (1 + line) / 2
    return Rectangle(
        floor(left + first), floor(top + first), floor(right + last), floor(bottom + last)
    ).cut_to(width, height)


def _strips(frame: Rectangle, breadth: int) -> list[Rectangle]:
    """Four strips inside the edges of a frame, or the whole where it is too small for that."""
    if min(frame.width, frame.height) <= 2 * breadth:
        return [frame]
    left, top, right, bottom = frame.left, frame.top, frame.right, frame.bottom
    return [
        Rectangle(left, top, right, top + breadth),
        Rectangle(left, bottom - breadth, right, bottom),
        Rectangle(left, top + breadth, left + breadth, bottom - breadth),
        Rectangle(right - breadth, top + breadth, right, bottom - breadth),
    ]


def _region(picture: NDArray[np.uint8], place: Rectangle) -> NDArray[np.uint8]:
    return picture[place.top : place.bottom, place.left : place.right]


def _draw_rotated_box(
    picture: NDArray[np.uint8], box: RotatedBox, class_id: int, style: _Style
) -> None:
    """A closed line on a shadow."""
    corners = _corners(box)
    height, width = picture.shape[:2]
    breadth = style.line + 2 * style.halo
    place = _bounds(corners).grown(breadth).cut_to(width, height)
    region = _region(picture, place)
    light = np.full(region.shape[:2], 255, np.uint8)
    _closed_line(light, corners - (place.left, place.top), (255 * _SHADOW,), breadth)
    region[:] = cv2.multiply(region, cv2.cvtColor(light, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    _closed_line(picture, corners, class_colour(class_id), style.line)


def _corners(box: RotatedBox) -> NDArray[np.float64]:
    """The corners [4, 2] (x, y) of a rotated box, in turn."""
    along = np.array([cos(box.angle), sin(box.angle)]) * box.w / 2
    across = np.array([-sin(box.angle), cos(box.angle)]) * box.h / 2
    centre = np.array([box.cx, box.cy])
    return centre + np.array([-along - across, along - across, along + across, across - along])


def _bounds(corners: NDArray[np.float64]) -> Rectangle:
    (left, top), (right, bottom) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    return Rectangle(int(left), int(top), int(right), int(bottom))


def _closed_line(
    canvas: NDArray[np.uint8], corners: NDArray[np.float64], ink: Sequence[float], thickness: int
) -> None:
    # Edges lie between pixels; OpenCV counts from the middle of the first pixel.
    points = np.round((corners - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.polylines(canvas, [points], True, ink, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_labels(
    picture: NDArray[np.uint8], strongest_first: Sequence[Detection], style: _Style
) -> None:
    height, width = picture.shape[:2]
    texts = [_text(detection, style, width) for detection in strongest_first]
    labels = [
        _label(detection, text, style, width, height)
        for detection, text in zip(strongest_first, texts, strict=True)
    ]
    places = place_labels(labels, width, height)
    for detection, text, place in zip(strongest_first, texts, places, strict=True):
        if place is not None:
            _draw_label(picture, text, place, class_colour(detection.class_id), style)


def _text(detection: Detection, style: _Style, picture_width: int) -> str:
    """Name and score; a name that would take more than two fifths of the picture is shortened."""
    name, score = printable(detection.label), f"{detection.score:.2f}"
    room = min(max(0.4 * picture_width, 12 * style.letter), picture_width) - 2 * style.plate_margin
    while name and _TYPEFACE.width(f"{name} {score}", style.letter) > room:
        name = name[:-2] + "…" if len(name) > 2 else ""
    return f"{name} {score}".strip()


def _label(detection: Detection, text: str, style: _Style, width: int, height: int) -> Label:
    plate_width = _TYPEFACE.width(text, style.letter) + 2 * style.plate_margin
    if detection.rotated_box is not None:
        corners = _corners(detection.rotated_box)
        bounds = _bounds(corners).grown(style.line).cut_to(width, height)
        return label_beside_corners(plate_width, style.plate_height, bounds, corners)
    box = _box_frame(detection, style.line, width, height)
    return label_beside_box(plate_width, style.plate_height, box)


def _draw_label(
    picture: NDArray[np.uint8], text: str, place: Rectangle, colour: Bgr, style: _Style
) -> None:
    """Letters on a filled plate."""
    coverage = np.zeros((place.height, place.width), np.uint8)
    baseline = round((place.height + CAPITAL_HEIGHT * style.letter) / 2)
    _TYPEFACE.draw(coverage, text, style.plate_margin, baseline, style.letter)
    opacity = coverage[:, :, None] / np.float32(255)
    plate = np.array(colour, np.float32) * (1 - opacity)
    plate += np.array(contrasting(colour), np.float32) * opacity
    _region(picture, place)[:] = np.round(plate)
