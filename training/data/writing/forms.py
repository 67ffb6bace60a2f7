"""An instance as a box, as one polygon, or as four corners: what a format asks for.

What is lost on the way is counted in `losses`.
"""

from collections import Counter

import cv2
import numpy as np
from numpy.typing import NDArray

from model.masks import InstanceMask, polygons
from model.rotated_iou import rotated_corners
from training.data.formats.instance_checks import box_of as task_box_of
from training.data.formats.records import ImageRecord, InstanceRecord
from training.data.run_lengths import cropped, has_pixels

#: Coordinates (x, y) in a row each.
Points = NDArray[np.floating]

#: What is lost, or changed.
CROWDS = "crowds, left out"
OUTLINES = "outlines of instances, of which the boxes alone are kept"
ENCLOSED = "outlines, written as the smallest rotated boxes around them"
UPRIGHT = "boxes without an angle, written as rotated boxes along the axes"
NO_OUTLINE = "boxes without an outline, written as polygons of four corners"
NO_PIXELS = "masks without any pixel, left out"
PARTS = "instances of several parts, joined by lines without width"
HOLES = "instances with holes, which are filled"

_NUM_CORNERS = 4


def is_crowd(instance: InstanceRecord, losses: Counter[str]) -> bool:
    """Whether it stands for a crowd, which is counted then."""
    losses[CROWDS] += instance.is_crowd
    return instance.is_crowd


def box_of(instance: InstanceRecord, losses: Counter[str]) -> Points:
    """The upright box: [2, 2], top left and bottom right."""
    losses[OUTLINES] += bool(instance.polygons or instance.run_lengths is not None)
    return np.array(instance.box_xyxy, np.float64).reshape(2, 2)


def corners_of(instance: InstanceRecord, image: ImageRecord, losses: Counter[str]) -> Points | None:
    """The corners [4, 2] of the rotated box: those that it has, else the smallest box around it."""
    if instance.run_lengths is not None and not has_pixels(instance.run_lengths):
        losses[NO_PIXELS] += 1
        return None
    if len(instance.polygons) == 1 and instance.polygons[0].size == 2 * _NUM_CORNERS:
        return instance.polygons[0].reshape(_NUM_CORNERS, 2)
    if not instance.polygons and instance.run_lengths is None:
        losses[UPRIGHT] += 1
        return _box_corners(instance)
    losses[ENCLOSED] += 1
    return rotated_corners(np.array(task_box_of(instance, image, "rotated")))[0]


def polygon_of(instance: InstanceRecord, image: ImageRecord, losses: Counter[str]) -> Points | None:
    """One outline [k, 2] that covers the instance; None for one without pixels.

    Masks get the outline along the edges of their pixels. Parts are joined as widely done: there
    and back along one line, which covers nothing.
    """
    rings = [polygon.reshape(-1, 2) for polygon in instance.polygons]
    if instance.run_lengths is not None:
        rings = _rings(instance.run_lengths, image, losses)
        if not rings:
            losses[NO_PIXELS] += 1
            return None
    if not rings:
        losses[NO_OUTLINE] += 1
        return _box_corners(instance)
    losses[PARTS] += len(rings) > 1
    joined = rings[0]
    for ring in rings[1:]:
        joined = _joined(joined, ring)
    return joined


def _box_corners(instance: InstanceRecord) -> Points:
    left, top, right, bottom = instance.box_xyxy
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return np.array(corners, np.float64)


def _rings(counts: bytes, image: ImageRecord, losses: Counter[str]) -> list[Points]:
    crop, (x, y) = cropped(counts, image.height, image.width)
    regions = polygons(InstanceMask(x, y, crop.astype(np.bool_), image.width, image.height))
    losses[HOLES] += any(region["holes"] for region in regions)
    return [np.array(region["exterior"], np.float32) for region in regions]


def _joined(first: Points, second: Points) -> Points:
    """Two rings as one, by a line between the points that are nearest to one another."""
    # The pairs of all points of two large outlines would fill gigabytes; their hulls are enough.
    near, far = (cv2.convexHull(ring.astype(np.float32))[:, 0] for ring in (first, second))
    distances = ((near[:, None] - far[None]) ** 2).sum(axis=2)
    row, column = np.unravel_index(distances.argmin(), distances.shape)
    leave = int(((first - near[row]) ** 2).sum(axis=1).argmin())
    enter = int(((second - far[column]) ** 2).sum(axis=1).argmin())
    there = np.roll(second, -enter, axis=0)
    return np.concatenate([first[: leave + 1], there, there[:1], first[leave:]])
