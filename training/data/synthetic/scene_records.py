"""Scenes as the records that data sets are written from, in the form that a layout asks for."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from model.masks import InstanceMask, encode_rle
from model.rotated_iou import rotated_corners
from training.data.annotations import Floats
from training.data.formats.layouts import Split
from training.data.formats.records import Category, ImageRecord, InstanceRecord
from training.data.synthetic.outlines import SHAPE_NAMES
from training.data.synthetic.scenes import Scene
from training.data.writing.base import SetWriter
from training.data.writing.coco import CocoWriter
from training.data.writing.dota import DotaWriter
from training.data.writing.yolo import Form, YoloWriter

#: `coco`: JSON with boxes and visible masks; `dota`: text with rotated boxes; `all`: both, beside
#: the same images; `yolo`: text with boxes, whole outlines or four corners.
ShapesLayout = Literal["all", "coco", "dota", "yolo", "yolo-polygons", "yolo-oriented"]

CATEGORIES = tuple(Category(label + 1, name) for label, name in enumerate(SHAPE_NAMES))


class SceneRecord(NamedTuple):
    """One scene without its pixels: the image once for each form that its layout has.

    `rotated_boxes` [n, 5] as in `Scene`.
    """

    split: Split
    images: tuple[ImageRecord, ...]
    rotated_boxes: Floats


def scene_record(split: Split, path: Path, layout: ShapesLayout, drawn: Scene) -> SceneRecord:
    """What is written of a scene in that layout; its image lies at `path`."""
    height, width = drawn.image.shape[:2]
    images = tuple(
        ImageRecord(0, path, height, width, path, form(drawn)) for form in _FORMS[layout]
    )
    return SceneRecord(split, images, drawn.rotated_boxes)


class ScenesWriter:
    """Writes the annotations of scenes, perhaps in two formats beside the same images."""

    def __init__(self, writers: Sequence[SetWriter]) -> None:
        self._writers = writers

    def image_folder(self, split: Split) -> Path:
        """Where the images of a split belong."""
        return self._writers[0].image_folder(split)

    def add(self, record: SceneRecord) -> None:
        """Write the annotations of a scene."""
        for writer, image in zip(self._writers, record.images, strict=True):
            name = image.path.name
            if isinstance(writer, CocoWriter):
                boxes = [{"rotated_bbox": _rounded(box)} for box in record.rotated_boxes]
                writer.add(record.split, image, name, boxes)
            else:
                writer.add(record.split, image, name)

    def finish(self) -> None:
        """Write what needs to know all scenes."""
        for writer in self._writers:
            writer.finish()


_YOLO_FORMS: dict[ShapesLayout, Form] = {
    "yolo": "box",
    "yolo-polygons": "polygon",
    "yolo-oriented": "corners",
}


def scenes_writer(layout: ShapesLayout, folder: Path) -> ScenesWriter:
    """The writer of that layout into `folder`."""
    # Scenes are made for each form, so that nothing is lost.
    losses: Counter[str] = Counter()
    if layout in _YOLO_FORMS:
        return ScenesWriter([YoloWriter(folder, CATEGORIES, losses, _YOLO_FORMS[layout])])
    if layout == "coco":
        return ScenesWriter([CocoWriter(folder, CATEGORIES, losses)])
    dota = DotaWriter(folder, CATEGORIES, losses)
    if layout == "dota":
        return ScenesWriter([dota])
    coco = CocoWriter(folder, CATEGORIES, losses, image_folder="{split}/images")
    return ScenesWriter([coco, dota])


def _with_masks(drawn: Scene) -> list[InstanceRecord]:
    height, width = drawn.image.shape[:2]
    masks = (InstanceMask(0, 0, mask, width, height) for mask in drawn.masks)
    counts = [encode_rle(mask)["counts"].encode("ascii") for mask in masks]
    areas = [int(mask.sum()) for mask in drawn.masks]
    return [
        _instance(drawn, number, run_lengths=one, area=area)
        for number, (one, area) in enumerate(zip(counts, areas, strict=True))
    ]


def _with_corners(drawn: Scene) -> list[InstanceRecord]:
    corners = rotated_corners(drawn.rotated_boxes).astype(np.float32)
    return [_instance(drawn, n, polygons=(each.ravel(),)) for n, each in enumerate(corners)]


def _with_polygons(drawn: Scene) -> list[InstanceRecord]:
    polygons = enumerate(drawn.polygons)
    return [_instance(drawn, number, polygons=(each.ravel(),)) for number, each in polygons]


def _with_boxes(drawn: Scene) -> list[InstanceRecord]:
    return [_instance(drawn, number) for number in range(len(drawn))]


def _instance(
    drawn: Scene,
    number: int,
    *,
    polygons: tuple[Floats, ...] = (),
    run_lengths: bytes | None = None,
    area: float | None = None,
) -> InstanceRecord:
    left, top, right, bottom = drawn.boxes[number].tolist()
    return InstanceRecord(
        record=f"shape {number}",
        id=number,
        category=SHAPE_NAMES[drawn.labels[number]],
        box_xyxy=(left, top, right, bottom),
        polygons=polygons,
        run_lengths=run_lengths,
        area=area,
    )


#: What each writer of a layout is given, in the order of `scenes_writer`.
_FORMS: dict[ShapesLayout, tuple[Callable[[Scene], list[InstanceRecord]], ...]] = {
    "all": (_with_masks, _with_corners),
    "coco": (_with_masks,),
    "dota": (_with_corners,),
    "yolo": (_with_boxes,),
    "yolo-polygons": (_with_polygons,),
    "yolo-oriented": (_with_corners,),
}


def _rounded(rotated_box: Floats) -> list[float]:
    return [round(value, 4) for value in rotated_box.tolist()]
