"""What becomes of one annotation: refused, kept but not trained on, or trained on."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from model.config import Task
from training.data.formats.records import ImageRecord, InstanceRecord, hull_xyxy
from training.data.run_lengths import decoded, has_pixels

#: Why an annotation is not trained on, one bit each; evaluation sees it all the same.
CROWD, DIFFICULT, SKIPPED = 1, 2, 4

#: Coordinates beyond this many pixels are mistakes.
_FARTHEST = 1e7

#: Remarks that are counted.
TOO_SMALL = "boxes of less than one pixel on a side, not trained on"
OUTSIDE = "boxes outside of their image, not trained on"
NO_AREA = "annotations without any area, not trained on"
REACHES_OUT = "boxes that reach outside of their image, clipped"


def fault_of(instance: InstanceRecord, task: Task) -> str | None:
    """What is wrong with an annotation so that nobody can train on it, or None."""
    left, top, right, bottom = instance.box_xyxy
    if not all(abs(value) <= _FARTHEST for value in instance.box_xyxy):
        place = f"({left:g}, {top:g}, {right:g}, {bottom:g})"
        return f"the box {place} is not finite, or lies beyond any image"
    if right < left or bottom < top:
        return f"the box has a negative size: {right - left:g}x{bottom - top:g}"
    if instance.area is not None and not math.isfinite(instance.area):
        return "the area is not finite"
    for number, polygon in enumerate(instance.polygons, 1):
        if len(polygon) % 2:
            return f"polygon {number} has an odd number of coordinates, {len(polygon)}"
        if len(polygon) < 6:
            return f"polygon {number} has {len(polygon) // 2} points; at least 3 are needed"
        if not (abs(polygon) <= _FARTHEST).all():
            return f"polygon {number} has a coordinate that is not finite, or beyond any image"
    if _lacks_outline(instance, task):
        needed = "an outline" if task == "instance" else "corners or an outline"
        return f"has a box alone; a model of this kind needs {needed} of every instance"
    return None


def _lacks_outline(instance: InstanceRecord, task: Task) -> bool:
    if task == "detect" or instance.is_crowd:
        return False
    return not instance.polygons and instance.run_lengths is None


def box_of(instance: InstanceRecord, image: ImageRecord, task: Task) -> tuple[float, ...]:
    """The box as the task has it: xyxy, or (cx, cy, w, h, angle in radians).

    Rotated ones are the smallest around all corners (`cv2.minAreaRect`), not regularised, which is
    how the published rotated models were trained.
    """
    if task != "rotated":
        return instance.box_xyxy
    (x, y), (width, height), angle_degrees = cv2.minAreaRect(_corners(instance, image))
    return x, y, width, height, math.radians(angle_degrees)


def _corners(instance: InstanceRecord, image: ImageRecord) -> NDArray[np.float32]:
    if instance.polygons:
        return np.concatenate(instance.polygons).reshape(-1, 2)
    if instance.run_lengths is not None and not instance.is_crowd:
        bitmap = decoded(instance.run_lengths, image.height, image.width)
        if bitmap.any():
            rows, columns = np.nonzero(bitmap)
            # A pixel reaches from its index to the next.
            corners = [(columns + dx, rows + dy) for dx in (0, 1) for dy in (0, 1)]
            return np.concatenate([np.stack(xy, axis=1) for xy in corners]).astype(np.float32)
    left, top, right, bottom = instance.box_xyxy
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def area_of(instance: InstanceRecord, box: tuple[float, ...], task: Task) -> float:
    """Square pixels: what the file says, else those of the outline or of the box."""
    if instance.area is not None:
        return instance.area
    if task == "instance" and instance.polygons:
        return float(sum(cv2.contourArea(points.reshape(-1, 2)) for points in instance.polygons))
    if task == "rotated":
        return box[2] * box[3]
    return (box[2] - box[0]) * (box[3] - box[1])


def reason_to_skip(
    instance: InstanceRecord, image: ImageRecord, box: tuple[float, ...], area: float
) -> str | None:
    """Why an annotation that is sound is not trained on; as published (reference, section 7)."""
    hull = (
        hull_xyxy(np.concatenate(instance.polygons))
        if len(box) == 5 and instance.polygons
        else (instance.box_xyxy)
    )
    left, top, right, bottom = hull
    width, height = (box[2], box[3]) if len(box) == 5 else (right - left, bottom - top)
    if width < 1 or height < 1:
        return TOO_SMALL
    if min(right, image.width) <= max(left, 0) or min(bottom, image.height) <= max(top, 0):
        return OUTSIDE
    if area <= 0 or (instance.run_lengths is not None and not has_pixels(instance.run_lengths)):
        return NO_AREA
    return None


def reaches_outside(box_xyxy: tuple[float, ...], image: ImageRecord) -> bool:
    """Whether the box is cut by clipping it to the image."""
    left, top, right, bottom = box_xyxy
    return left < 0 or top < 0 or right > image.width or bottom > image.height
