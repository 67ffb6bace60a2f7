"""One annotation that is sound, judged: where its box lies, what its outline and area say.

Each check gives the codes of what it finds and what is the matter there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from model.config import Task
from training.data.checking.boxes import iou, overhang, share_inside
from training.data.checking.outlines import (
    crosses_itself,
    fill_of_rectangle,
    outline_area,
    outline_box,
    polygon_share_inside,
    signed_area,
)
from training.data.formats.layouts import DataFormat
from training.data.formats.records import ImageRecord, InstanceRecord

#: A box may reach so far out of its image: tools round, and count from 1.
_OVERHANG_PIXELS, _OVERHANG_SHARE = 1.0, 0.01
#: What of a polygon must lie inside. Polygons rightly go on beyond the image's border.
_LEAST_INSIDE = 0.5
#: IoU of a mask's box with the box, and by how many pixels sides may differ whatever that is.
_LEAST_MASK_IOU, _MASK_SLACK_PIXELS = 0.7, 3.0
#: By what factor, and by how many square pixels, a stated area may be wrong.
_AREA_FACTOR, _AREA_SLACK = 1.5, 20.0
_LONGEST_ASPECT = 20.0
_LEAST_FILL = 0.7

#: The code of a kind, and what is the matter.
Remark = tuple[str, str]


@dataclass(frozen=True)
class InstanceChecks:
    """What is to be trained, and the format: COCO states boxes and areas beside the outlines."""

    task: Task
    format: DataFormat

    def remarks(
        self, instance: InstanceRecord, image: ImageRecord, sides: tuple[float, float]
    ) -> Iterator[Remark]:
        """What is odd about an instance whose box has these sides, width and height in pixels."""
        yield from self._of_extent(instance, image)
        if max(sides) > _LONGEST_ASPECT * max(min(sides), 1e-6):
            yield "extreme-aspect", f"{sides[0]:.0f}x{sides[1]:.0f} pixels"
        if self.format == "coco":
            yield from _of_area(instance, image)
            yield from _of_mask(instance, image)
        if any(map(crosses_itself, instance.polygons)):
            yield "crossing-polygon", ""
        elif self.task == "rotated" and [len(each) for each in instance.polygons] == [8]:
            yield from self._of_corners(instance)

    def _of_extent(self, instance: InstanceRecord, image: ImageRecord) -> Iterator[Remark]:
        box, size = instance.box_xyxy, (image.height, image.width)
        left, top, right, bottom = box
        out = overhang(box, *size)
        slack = max(_OVERHANG_PIXELS, _OVERHANG_SHARE * max(right - left, bottom - top))
        if self.format == "coco" or not instance.polygons:
            reaches_out = out > slack
        else:
            reaches_out = share_inside(box, *size) < 1 and any(
                polygon_share_inside(each, *size) < _LEAST_INSIDE for each in instance.polygons
            )
        if reaches_out:
            is_larger = right - left > image.width + slack or bottom - top > image.height + slack
            code = "box-larger-than-image" if is_larger else "box-partly-outside"
            yield code, f"by {out:,.0f} pixels"

    def _of_corners(self, instance: InstanceRecord) -> Iterator[Remark]:
        (polygon,) = instance.polygons
        fill = fill_of_rectangle(polygon)
        if fill < _LEAST_FILL:
            yield "not-a-rectangle", f"fills {fill:.0%} of it"
        elif self.format == "dota" and signed_area(polygon.reshape(4, 2)) < 0:
            yield "anticlockwise-corners", ""


def _of_area(instance: InstanceRecord, image: ImageRecord) -> Iterator[Remark]:
    if instance.area is None:
        return
    left, top, right, bottom = instance.box_xyxy
    of_box = (right - left) * (bottom - top)
    has_outline = bool(instance.polygons) or instance.run_lengths is not None
    expected = outline_area(instance, image) if has_outline else of_box
    # A box's own area is what many tools state whatever the outline; without an outline, that
    # of one which is not read here may be much smaller.
    highest = max(expected, of_box)
    is_too_small = has_outline and instance.area < expected / _AREA_FACTOR - _AREA_SLACK
    if is_too_small or instance.area > highest * _AREA_FACTOR + _AREA_SLACK:
        yield "wrong-area", f"states {instance.area:,.0f}, is about {expected:,.0f} square pixels"


def _of_mask(instance: InstanceRecord, image: ImageRecord) -> Iterator[Remark]:
    around = outline_box(instance, image)
    if around is None:
        return
    pairs = zip(instance.box_xyxy, around, strict=True)
    if max(abs(stated - found) for stated, found in pairs) <= _MASK_SLACK_PIXELS:
        return
    overlap = iou(instance.box_xyxy, around)
    if overlap < _LEAST_MASK_IOU:
        yield "mask-disagrees", f"IoU of both is {overlap:.2f}"
