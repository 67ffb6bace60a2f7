"""Writes COCO's JSON: boxes, outlines as the records have them, crowds.

Coordinates are rounded to thousandths of a pixel. Entries are kept as text, which takes a fraction
of the memory of what they are read from.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.data.formats.instance_checks import area_of
from training.data.formats.layouts import Split
from training.data.formats.records import Category, ImageRecord, InstanceRecord
from training.data.run_lengths import expanded
from training.data.writing.base import write_lines

#: What is lost.
DIFFICULT = "difficult instances, which are like any other now"
OUTLINES = "outlines of instances, of which the boxes alone are kept"

_DECIMALS = 3


class CocoWriter:
    """Writes `annotations/instances_SPLIT.json`; with `boxes_only` no outlines."""

    is_upright = False

    def __init__(
        self,
        folder: Path,
        categories: Sequence[Category],
        losses: Counter[str],
        *,
        boxes_only: bool = False,
        image_folder: str = "{split}",
    ) -> None:
        self._folder = folder
        self._categories = categories
        self._ids = {category.name: category.id for category in categories}
        self._losses = losses
        self._boxes_only = boxes_only
        self._image_folder = image_folder
        self._images: dict[Split, list[str]] = {}
        self._annotations: dict[Split, list[str]] = {}

    def image_folder(self, split: Split) -> Path:
        """Where the images of a split belong."""
        return self._folder / self._image_folder.format(split=split)

    def add(
        self,
        split: Split,
        image: ImageRecord,
        name: str,
        more: Sequence[Mapping[str, object]] | None = None,
    ) -> None:
        """Add an image and its annotations; `more` are further fields of each."""
        images = self._images.setdefault(split, [])
        annotations = self._annotations.setdefault(split, [])
        size = {"height": image.height, "width": image.width}
        images.append(json.dumps({"id": len(images) + 1, "file_name": name, **size}))
        further = more if more is not None else [{}] * len(image.instances)
        for instance, fields in zip(image.instances, further, strict=True):
            entry = {"id": len(annotations) + 1, "image_id": len(images)}
            entry |= {**self._annotation(instance, image), **fields}
            annotations.append(json.dumps(entry))

    def finish(self) -> None:
        """Write the files of all splits."""
        categories = [json.dumps(category._asdict()) for category in self._categories]
        for split, images in self._images.items():
            lists = {
                "images": images,
                "annotations": self._annotations[split],
                "categories": categories,
            }
            texts = [f'"{key}": [{_listed(entries)}]' for key, entries in lists.items()]
            file = self._folder / "annotations" / f"instances_{split}.json"
            write_lines(file, ["{" + ",\n".join(texts) + "}"])

    def _annotation(self, instance: InstanceRecord, image: ImageRecord) -> dict[str, object]:
        left, top, right, bottom = instance.box_xyxy
        segmentation = _segmentation(instance, image)
        if self._boxes_only and segmentation:
            segmentation = []
            self._losses[OUTLINES] += 1
        self._losses[DIFFICULT] += instance.is_difficult
        return {
            "category_id": self._ids[instance.category],
            "bbox": _rounded([left, top, right - left, bottom - top]),
            "area": _area(instance),
            "iscrowd": int(instance.is_crowd),
            "segmentation": segmentation,
        }


def _segmentation(instance: InstanceRecord, image: ImageRecord) -> object:
    if instance.run_lengths is not None:
        size = [image.height, image.width]
        return {"size": size, "counts": instance.run_lengths.decode("ascii")}
    return [_rounded(polygon.tolist()) for polygon in instance.polygons]


def _area(instance: InstanceRecord) -> float:
    if instance.area is None and instance.run_lengths is not None:
        return int(expanded(instance.run_lengths)[1::2].sum())
    return round(area_of(instance, instance.box_xyxy, "instance"), _DECIMALS)


def _rounded(values: list[float]) -> list[float]:
    return [round(value, _DECIMALS) for value in values]


def _listed(entries: list[str]) -> str:
    return ",\n".join(entries)
