"""A data set as an index: packed arrays in a folder, which all processes map into their memory.

Built once from COCO, DOTA or YOLO files, whatever is wrong with them told first; opened by every
rank and worker. `meta.json` says what it was built from.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.config import Task
from training.data.annotations import Annotations, Floats
from training.data.formats.checks import Findings, broken
from training.data.formats.instance_checks import CROWD, DIFFICULT
from training.data.formats.layouts import DataSource
from training.data.formats.readers import open_records
from training.data.formats.records import Category
from training.data.indexing.array_folders import mapped_array, read_meta, write_array_folder
from training.data.indexing.fingerprint import fingerprint
from training.data.indexing.packed_outlines import PackedOutlines
from training.data.indexing.packing import text_at
from training.data.indexing.recording import Recorder


class IndexKey(BaseModel):
    """What an index was built from and how; equal keys give equal indices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["rtmdet-index-1"] = "rtmdet-index-1"
    source: str
    fingerprint: str
    task: Task
    asked_classes: tuple[str, ...] | None
    keep_images_without_boxes: bool
    min_image_side: int


class IndexMeta(BaseModel):
    """What stands beside the arrays.

    `category_ids` has for each class the id in the file, -1 where the file does not list it.
    `are_upright` as in `RecordStream`. `remarks` counts what was noticed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: IndexKey
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    are_upright: bool
    num_images: int
    num_instances: int
    num_trained: int
    remarks: dict[str, int]


@dataclass(frozen=True, eq=False)
class EvaluationAnnotations:
    """All n annotations of one image, as the file has them.

    `boxes` as in `Annotations`, but not clipped. `areas` float64 in square pixels. `is_crowd` and
    `is_difficult` bool [n]. `ids` int64 [n]. `masks` are COCO's compressed run lengths
    (the `counts`) of the whole image, for instance models.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    is_difficult: NDArray[np.bool_]
    ids: NDArray[np.int64]
    masks: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class DetectionIndex:
    """A data set on disk, by position; an `AnnotatedImages`.

    Holds maps of the files, whose pages all processes share; pickled it is the folder's path.
    """

    def __init__(self, folder: Path, meta: IndexMeta) -> None:
        self.folder = folder
        self.meta = meta
        self.task: Task = meta.key.task
        self.classes = meta.classes
        self.category_ids = meta.category_ids
        self.are_upright = meta.are_upright
        self._path_text = mapped_array(folder, "path_text")
        self._path_offsets = mapped_array(folder, "path_offsets")
        self._image_sizes = mapped_array(folder, "image_sizes")
        self._image_ids = mapped_array(folder, "image_ids")
        self._instance_offsets = mapped_array(folder, "instance_offsets")
        self._boxes = mapped_array(folder, "boxes")
        self._labels = mapped_array(folder, "labels")
        self._flags = mapped_array(folder, "flags")
        self._areas = mapped_array(folder, "areas")
        self._annotation_ids = mapped_array(folder, "annotation_ids")
        self._outlines = PackedOutlines(folder) if self.task == "instance" else None

    @classmethod
    def open(cls, folder: Path) -> "DetectionIndex":
        """Open what `build_index` wrote. Raises ValueError where there is none."""
        return cls(folder.absolute(), read_meta(folder, IndexMeta))

    def __reduce__(self) -> tuple[object, ...]:
        return DetectionIndex.open, (self.folder,)

    def __len__(self) -> int:
        return len(self._image_ids)

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        return Path(text_at(self._path_text, self._path_offsets, position))

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width in pixels, as the annotations count them."""
        height, width = self._image_sizes[position].tolist()
        return height, width

    def image_id(self, position: int) -> int:
        """The id in the file; the position where files have no ids."""
        return int(self._image_ids[position])

    def annotations(self, position: int) -> Annotations:
        """What the image is trained with; boxes xyxy are clipped to the image."""
        rows = self._rows(position)
        trained = np.flatnonzero(self._flags[rows] == 0) + rows.start
        boxes = self._boxes[trained]
        if boxes.shape[1] == 4:
            height, width = self.image_size(position)
            np.clip(boxes, 0, (width, height, width, height), out=boxes)
        outlines = None
        if self._outlines is not None:
            size = self.image_size(position)
            outlines = tuple(self._outlines.outline(row, size) for row in trained.tolist())
        return Annotations(boxes, self._labels[trained].astype(np.int64), outlines)

    def evaluation_annotations(self, position: int) -> EvaluationAnnotations:
        """What predictions for the image are compared with."""
        rows = self._rows(position)
        flags = self._flags[rows]
        masks = None
        if self._outlines is not None:
            size = self.image_size(position)
            masks = tuple(self._outlines.mask(row, size) for row in range(rows.start, rows.stop))
        return EvaluationAnnotations(
            boxes=np.array(self._boxes[rows]),
            labels=self._labels[rows].astype(np.int64),
            areas=np.array(self._areas[rows]),
            is_crowd=(flags & CROWD) != 0,
            is_difficult=(flags & DIFFICULT) != 0,
            ids=np.array(self._annotation_ids[rows]),
            masks=masks,
        )

    def _rows(self, position: int) -> slice:
        start, end = self._instance_offsets[position : position + 2].tolist()
        return slice(start, end)


def build_index(  # noqa: PLR0913 - what an index is made of, and who is told
    source: DataSource,
    *,
    task: Task,
    folder: Path,
    classes: tuple[str, ...] | None = None,
    keep_images_without_boxes: bool = False,
    min_image_side: int = 0,
    progress: Callable[[int, int], None] | None = None,
    findings: Findings | None = None,
) -> DetectionIndex:
    """The index of `source` in `folder`: opened if it is there already, else built.

    `classes` fixes which classes there are and their order (for evaluation: those trained with);
    those of the file are found among them by name. Images with a side of less than
    `min_image_side` pixels are left out, and unless they are kept those without a box to train
    on. `progress` is told how many images of how many are done. `findings` take what is noticed,
    and may say that something is no problem. One process at a time may build in a folder.

    Raises BrokenData with everything that must be mended in the files.
    """
    key = IndexKey(
        source=str(source.path.absolute()),
        fingerprint=fingerprint(source),
        task=task,
        asked_classes=classes,
        keep_images_without_boxes=keep_images_without_boxes,
        min_image_side=min_image_side,
    )
    existing = _reusable(folder, key)
    if existing is not None:
        return existing
    findings = findings or Findings(source.path)
    stream = open_records(source, findings, with_outlines=task != "detect")
    recorder = Recorder(task, findings, stream.categories, classes)
    for done, image in enumerate(stream.images, 1):
        recorder.add(image, keep_empty=keep_images_without_boxes, min_side=min_image_side)
        if progress is not None:
            progress(done, stream.num_images)
    categories = recorder.ordered_categories()
    require_trainable(source, recorder)
    return _write(folder, key, categories, recorder, are_upright=stream.are_upright)


def require_trainable(source: DataSource, recorder: Recorder) -> None:
    """Raise BrokenData for a source that had problems or has nothing to train on."""
    findings = recorder.findings
    findings.require_none()
    if not recorder.num_trained:
        reasons = f": {findings.noticed()}" if findings.remarks else ""
        raise broken(source.path, f"no image has a box to train on{reasons}")


def _write(
    folder: Path,
    key: IndexKey,
    categories: tuple[Category, ...],
    recorder: Recorder,
    *,
    are_upright: bool,
) -> DetectionIndex:
    arrays = recorder.arrays(categories)
    meta = IndexMeta(
        key=key,
        classes=tuple(category.name for category in categories),
        category_ids=tuple(category.id for category in categories),
        are_upright=are_upright,
        num_images=len(arrays["image_ids"]),
        num_instances=len(arrays["labels"]),
        num_trained=recorder.num_trained,
        remarks=dict(recorder.findings.remarks),
    )
    write_array_folder(folder, meta, arrays)
    return DetectionIndex.open(folder)


def _reusable(folder: Path, key: IndexKey) -> DetectionIndex | None:
    """The index in `folder` if it is of this key and all its images are still there."""
    try:
        if read_meta(folder, IndexMeta).key != key:
            return None
        index = DetectionIndex.open(folder)
    except (OSError, ValueError):
        return None
    present: dict[str, set[str]] = {}
    for position in range(len(index)):
        parent, name = os.path.split(index.image_path(position))
        if parent not in present:
            present[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in present[parent]:
            return None
    return index
