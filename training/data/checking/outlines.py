"""Outlines of instances, judged: polygons that cross themselves, masks beside their boxes."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from training.data.annotations import Floats
from training.data.formats.records import ImageRecord, InstanceRecord, hull_xyxy

#: The side of the picture in which what a polygon covers is counted.
_RASTER_SIDE = 256
#: A polygon may lose this share of what it covers by crossing itself: tiny loops are everywhere.
_LOST_SHARE = 0.1
#: Longer ones are taken every other point, and so on, which keeps large loops.
_MAX_POINTS = 400

Box = tuple[float, float, float, float]


def crosses_itself(polygon: Floats) -> bool:
    """Whether a flat polygon (x1, y1, ...) crosses itself so that much of it is lost."""
    points = polygon.reshape(-1, 2).astype(np.float64)
    points = points[:: 1 + (len(points) - 1) // _MAX_POINTS]
    return len(points) > 3 and _any_crossing(points) and _loses_much(points)


def _any_crossing(points: NDArray[np.float64]) -> bool:
    """Whether two sides that are no neighbours cross, each with ends on both sides of the other."""
    ends = np.roll(points, -1, axis=0)
    sides = ends - points

    def turns(to: NDArray[np.float64]) -> NDArray[np.float64]:
        """On which side [k, k] of each line the points `to` lie."""
        away = to[None] - points[:, None]
        return sides[:, None, 0] * away[..., 1] - sides[:, None, 1] * away[..., 0]

    parted = turns(points) * turns(ends) < 0
    return bool((parted & parted.T).any())


def _loses_much(points: NDArray[np.float64]) -> bool:
    low, span = points.min(axis=0), np.ptp(points, axis=0).max()
    if span <= 0:
        return False
    scaled = (points - low) * (_RASTER_SIDE - 1) / span
    raster = np.zeros((_RASTER_SIDE, _RASTER_SIDE), np.uint8)
    hull_area = cv2.contourArea(cv2.convexHull(scaled.astype(np.float32)))
    cv2.fillPoly(raster, [np.rint(scaled).astype(np.int32)], 1)
    covered = float(np.count_nonzero(raster))
    enclosed = abs(signed_area(scaled))
    # Slivers are covered by their own border alone.
    return hull_area > _RASTER_SIDE and covered - enclosed > _LOST_SHARE * covered + _RASTER_SIDE


def signed_area(points: NDArray[np.floating]) -> float:
    """Square pixels of the polygon [k, 2]; positive for clockwise, with y down."""
    x, y = points[:, 0], points[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def outline_box(instance: InstanceRecord, image: ImageRecord) -> Box | None:
    """The box around the outline, xyxy; None where there is none, or nothing of it."""
    if instance.polygons:
        return hull_xyxy(np.concatenate(instance.polygons))
    if instance.run_lengths is None:
        return None
    left, top, width, height = coco_mask.toBbox(_rle(instance, image)).tolist()
    return (left, top, left + width, top + height) if width and height else None


def outline_area(instance: InstanceRecord, image: ImageRecord) -> float:
    """Square pixels of the outline; parts of one instance are taken not to overlap."""
    if instance.run_lengths is not None:
        return float(coco_mask.area(_rle(instance, image)))
    return sum(abs(signed_area(each.reshape(-1, 2).astype(float))) for each in instance.polygons)


def polygon_share_inside(polygon: Floats, height: int, width: int) -> float:
    """Which share of the convex shape around a polygon lies in the image, from 0 to 1."""
    hull = cv2.convexHull(polygon.reshape(-1, 2))
    area = cv2.contourArea(hull)
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    inside, _ = cv2.intersectConvexConvex(hull, frame)
    return min(float(inside) / area, 1.0) if area > 0 else 1.0


def fill_of_rectangle(polygon: Floats) -> float:
    """Which share of the smallest rectangle around them four corners fill, from 0 to 1."""
    hull = cv2.convexHull(polygon.reshape(-1, 2))
    _, (width, height), _ = cv2.minAreaRect(hull)
    return cv2.contourArea(hull) / (width * height) if width * height > 0 else 1.0


def _rle(instance: InstanceRecord, image: ImageRecord) -> Any:
    return {"size": [image.height, image.width], "counts": instance.run_lengths}
