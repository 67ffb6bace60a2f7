"""Pictures for the page: an image with its annotations, or the part of it that is meant."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.checking.findings import Place
from training.data.decoding import decode_file
from training.data.formats.instance_checks import fault_of
from training.data.formats.label_files import IMAGE_SUFFIXES
from training.data.formats.records import ImageRecord, InstanceRecord
from training.data.run_lengths import cropped
from training.data.sampling.images import UnreadableImage, read_image
from training.drawing import class_colour, write_name

Picture = NDArray[np.uint8]

_TILE_SIDE = 360
_JPEG_QUALITY = 85
_MASK_OPACITY = 0.35
_MARKED = (60, 40, 235)
_AROUND = (58, 58, 58)
#: What is seen around a marked box: so many times its sides, and at least so many pixels.
_MARGIN, _LEAST_MARGIN = 0.8, 40.0
#: A box may lie anywhere; so many times the image's sides are shown at most.
_FARTHEST = 2.0
#: More than these are a blur in a tile.
_MAX_NAMES = 25
_FRACTION_BITS = 4
#: Pixels between two pictures that are compared.
_GAP = 6

#: left, top, right, bottom of what is shown, in pixels of the image.
_View = tuple[float, float, float, float]


def data_url(picture: Picture) -> str:
    """A picture as an address that holds it."""
    encoded, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def draw_image(
    image: ImageRecord, classes: Sequence[str], *, upright: bool, marked: Sequence[int] = ()
) -> Picture | None:
    """The image with its annotations, near those at the positions `marked`; None: not decodable."""
    try:
        pixels = read_image(image.path, (image.height, image.width), upright=upright)
    except UnreadableImage:
        return None
    view = _view_of(image, marked)
    picture, affine = _seen(pixels, view)
    numbers = {name: number for number, name in enumerate(classes)}
    # Small ones last, or large ones would hide them; what is meant on top of all.
    order = sorted(_drawable(image), key=lambda each: (each in marked, -_area(image, each)))
    for position in order:
        instance = image.instances[position]
        label = numbers.get(instance.category, len(numbers))
        size = (image.height, image.width)
        _draw_instance(picture, instance, size, affine, label, is_marked=position in marked)
    for position in marked or (order if len(order) <= _MAX_NAMES else ()):
        instance = image.instances[position]
        place = _moved(_corners(instance), affine)[0]
        label = numbers.get(instance.category, len(numbers))
        write_name(picture, _plain(instance.category), np.rint(place).astype(int).tolist(), label)
    return picture


def draw_place(place: Place, classes: Sequence[str], *, upright: bool) -> Picture | None:
    """What is to be seen of a place, beside what it is like; None where that is nothing."""
    if place.image is not None:
        return draw_image(place.image, classes, upright=upright, marked=place.marked)
    drawn = _drawn_file(place.file)
    other = None if place.like is None else _drawn_file(place.like)
    if drawn is None or other is None:
        return drawn
    height = min(len(drawn), len(other))
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    return np.hstack([_of_height(drawn, height), gap, _of_height(other, height)])


def _of_height(picture: Picture, height: int) -> Picture:
    width = max(round(picture.shape[1] * height / len(picture)), 1)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _drawn_file(file: Path) -> Picture | None:
    # Neither annotations, which may be large, nor a pipe, which would be waited for.
    if file.suffix.lower() not in IMAGE_SUFFIXES or not os.path.isfile(file):
        return None
    try:
        pixels = decode_file(file)
    except OSError:
        return None
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    return _seen(pixels, (0, 0, width, height))[0]


def _drawable(image: ImageRecord) -> list[int]:
    """Positions of instances that have a place in any picture."""
    return [
        position
        for position, instance in enumerate(image.instances)
        if fault_of(instance, "detect") is None
    ]


def _area(image: ImageRecord, position: int) -> float:
    left, top, right, bottom = image.instances[position].box_xyxy
    return (right - left) * (bottom - top)


def _view_of(image: ImageRecord, marked: Sequence[int]) -> _View:
    if not marked:
        return (0, 0, image.width, image.height)
    boxes = np.array([image.instances[position].box_xyxy for position in marked])
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    margin = max((right - left) * _MARGIN, (bottom - top) * _MARGIN, _LEAST_MARGIN)
    columns = _shown(left, right, margin, image.width)
    rows = _shown(top, bottom, margin, image.height)
    return columns[0], rows[0], columns[1], rows[1]


def _shown(low: float, high: float, margin: float, side: int) -> tuple[float, float]:
    """What is shown along an axis: beyond the image only as far as a box lies there."""
    edge = margin / 4
    begin = max(low - margin, min(low - edge, 0), -_FARTHEST * side)
    end = min(high + margin, max(high + edge, side), (1 + _FARTHEST) * side)
    # Some of the image, wherever the box is.
    return min(begin, 0.8 * side), max(end, 0.2 * side)


def _seen(pixels: Picture, view: _View) -> tuple[Picture, NDArray[np.float64]]:
    """What is seen of the pixels as a tile, and the map [2, 3] from pixels to the tile."""
    left, top, right, bottom = view
    scale = min(_TILE_SIDE / max(right - left, bottom - top), 4.0)
    affine = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    shrunk, source = pixels, affine.copy()
    if scale < 1:
        # Warping alone would skip pixels.
        height, width = (max(round(side * scale), 1) for side in pixels.shape[:2])
        shrunk = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        source[0, 0], source[1, 1] = 1, 1
    size = (max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1))
    tile = cv2.warpAffine(shrunk, source, size, borderMode=cv2.BORDER_CONSTANT, borderValue=_AROUND)
    return np.asarray(tile, np.uint8), affine


def _draw_instance(
    picture: Picture,
    instance: InstanceRecord,
    size: tuple[int, int],
    affine: NDArray[np.float64],
    label: int,
    *,
    is_marked: bool,
) -> None:
    colour = _MARKED if is_marked else class_colour(label)
    outlines = [_fixed_point(_moved(each, affine)) for each in _outlines(instance, size)]
    if outlines:
        _tint(picture, outlines, colour)
    shapes = outlines or [_fixed_point(_moved(_corners(instance), affine))]
    thickness = 3 if is_marked else 1
    cv2.polylines(picture, shapes, True, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)
    if is_marked and outlines:
        corners = _fixed_point(_moved(_corners(instance), affine))
        cv2.polylines(picture, [corners], True, colour, 2, cv2.LINE_AA, _FRACTION_BITS)


def _outlines(instance: InstanceRecord, size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Polygons [k, 2] of the instance; around its pixels where it has run lengths."""
    if instance.run_lengths is None:
        return [each.reshape(-1, 2) for each in instance.polygons]
    bitmap, (left, top) = cropped(instance.run_lengths, *size)
    if not bitmap.size:
        return []
    contours, _ = cv2.findContours(bitmap, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # From indices of pixels to their centres.
    centre = np.array([left + 0.5, top + 0.5], np.float32)
    return [each.reshape(-1, 2).astype(np.float32) + centre for each in contours]


def _tint(
    picture: Picture, outlines: list[NDArray[np.int32]], colour: tuple[int, int, int]
) -> None:
    painted = picture.copy()
    cv2.fillPoly(painted, outlines, colour, cv2.LINE_AA, _FRACTION_BITS)
    cv2.addWeighted(painted, _MASK_OPACITY, picture, 1 - _MASK_OPACITY, 0, dst=picture)


def _corners(instance: InstanceRecord) -> NDArray[np.float64]:
    left, top, right, bottom = instance.box_xyxy
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _moved(points: NDArray[np.floating], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    moved = points.astype(np.float64) @ affine[:, :2].T + affine[:, 2]
    # Farther away OpenCV's integers would run over.
    return np.clip(moved, -_TILE_SIDE * 8, _TILE_SIDE * 8)


def _fixed_point(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.rint(points * 2**_FRACTION_BITS).astype(np.int32)


def _plain(name: str) -> str:
    """OpenCV's letters are those of ASCII."""
    return name.encode("ascii", "replace").decode()
