"""Annotations of a picture that its metadata turn: from pixels as stored to those seen, and back.

COCO's files count the pixels as they are stored, DOTA's and YOLO's as viewers show them.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.masks import InstanceMask, encode_rle
from training.data.formats.image_headers import ImageSize, as_seen
from training.data.formats.records import ImageRecord, InstanceRecord
from training.data.run_lengths import decoded

Number = TypeVar("Number", bound=np.floating)

#: Turning by these undoes one another; every other orientation undoes itself.
_INVERSES = {6: 8, 8: 6}


def counted_as(
    image: ImageRecord, size: ImageSize, *, is_upright: bool, wants_upright: bool
) -> ImageRecord:
    """The same image with annotations that count the pixels as wanted.

    `size` is what its file states. `is_upright` as in `RecordStream`.
    """
    if size.orientation == 1:
        return image
    if not is_upright:
        # As stored, unless only the upright picture has the size that is stated.
        is_upright = (image.height, image.width) != (size.height, size.width)
    if is_upright == wants_upright:
        return image
    orientation = size.orientation
    return _turned(image, orientation if wants_upright else _INVERSES.get(orientation, orientation))


def _turned(image: ImageRecord, orientation: int) -> ImageRecord:
    height, width = as_seen(np.empty((image.height, image.width)), orientation).shape
    instances = [_turned_instance(each, image, orientation) for each in image.instances]
    return replace(image, height=height, width=width, instances=instances)


def _turned_instance(
    instance: InstanceRecord, image: ImageRecord, orientation: int
) -> InstanceRecord:
    size = (image.height, image.width)
    # In float64: COCO's boxes need not be rounded to what single precision holds.
    left, top, right, bottom = _turned_points(
        np.array(instance.box_xyxy, np.float64), size, orientation
    ).tolist()
    box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    polygons = [_turned_points(points, size, orientation) for points in instance.polygons]
    counts = instance.run_lengths
    if counts is not None:
        mask = as_seen(decoded(counts, *size).astype(np.bool_), orientation)
        whole = InstanceMask(0, 0, mask, mask.shape[1], mask.shape[0])
        counts = encode_rle(whole)["counts"].encode("ascii")
    return replace(instance, box_xyxy=box, polygons=tuple(polygons), run_lengths=counts)


def _turned_points(
    flat: NDArray[Number], size: tuple[int, int], orientation: int
) -> NDArray[Number]:
    """Flat points (x1, y1, ...) where `as_seen` puts the pixels that they count."""
    height, width = size
    x, y = flat.reshape(-1, 2).T
    # What happens to pixels happens to the two axes.
    if orientation in (2, 3, 7, 8):
        x = width - x
    if orientation in (3, 4, 6, 7):
        y = height - y
    pairs = (y, x) if orientation in (5, 6, 7, 8) else (x, y)
    return np.stack(pairs, axis=1).ravel().astype(flat.dtype)
