"""The data of a run: found in a folder, indexed into the run's, opened by every rank."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from model.config import variant
from training.config import TrainConfig
from training.data.formats.layouts import DataSource, find_data
from training.data.indexing.detection_index import DetectionIndex, build_index
from training.data.indexing.fingerprint import fingerprint
from training.data.indexing.image_folders import (
    FolderIndex,
    find_image_folders,
    images_fingerprint,
    index_image_folder,
)
from training.plan import DataCounts

#: Told what is being indexed, how many images are done, and how many there are.
Report = Callable[[str, int, int], None]

#: Folders inside the index's; one that is missing is a split that is missing.
_TRAIN, _VAL = "train", "val"

_REPORT_EVERY_S = 5.0


class ReadingReport:
    """Says how far the reading of a large data set is, every few seconds; a `Report`."""

    def __init__(
        self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._next = clock() + _REPORT_EVERY_S

    def __call__(self, split: str, done: int, total: int) -> None:
        """So many images of so many are read."""
        if self._clock() >= self._next:
            self._next = self._clock() + _REPORT_EVERY_S
            self._say(f"reading {split}: {done:,} of {total:,} images")


Index = TypeVar("Index", bound=DetectionIndex | FolderIndex)


@dataclass(frozen=True)
class RunData(Generic[Index]):
    """What is trained on, and evaluated on, if anything is."""

    train: Index
    val: Index | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label."""
        return self.train.classes

    @property
    def num_instances(self) -> int | None:
        """How many instances are trained on, where images have any."""
        return None

    @property
    def counts(self) -> DataCounts:
        """How much there is."""
        num_val = 0 if self.val is None else len(self.val)
        return DataCounts(len(self.train), num_val, self.classes, self.num_instances)

    @property
    def remarks(self) -> list[str]:
        """What was noticed while reading, a line each."""
        return []


class DetectionData(RunData[DetectionIndex]):
    """For detectors: images with annotated instances."""

    @property
    def num_instances(self) -> int | None:
        """Without crowds and what is marked difficult."""
        return self.train.meta.num_trained

    @property
    def remarks(self) -> list[str]:
        """What was noticed while reading, a line each."""
        return [
            f"{split}: {count} x {remark}"
            for split, index in (("train", self.train), ("val", self.val))
            if index is not None
            for remark, count in index.meta.remarks.items()
        ]


class ClassificationData(RunData[FolderIndex]):
    """For classifiers: images in folders."""


def index_data(
    config: TrainConfig, data: Path, folder: Path, report: Report = lambda *_: None
) -> None:
    """Index the data set at `data` into `folder`, unless that was done already.

    One process does this before any opens it. Raises ValueError for a folder without a data set
    that suits the recipe, and BrokenData, which names what must be mended in it.
    """
    if config.model.is_classifier:
        found = find_image_folders(data)
        train = index_image_folder(found.train, folder=folder / _TRAIN)
        if found.val is not None:
            index_image_folder(found.val, folder=folder / _VAL, classes=train.classes)
        return
    task = variant(config.model.name).task
    sources = find_data(data, task)

    def told(source: DataSource) -> Callable[[int, int], None]:
        return lambda done, total: report(source.split, done, total)

    classes = build_index(
        sources.train,
        task=task,
        folder=folder / _TRAIN,
        keep_images_without_boxes=config.data.keep_images_without_boxes,
        min_image_side=config.data.min_image_side,
        progress=told(sources.train),
    ).classes
    if sources.val is not None:
        build_index(
            sources.val,
            task=task,
            folder=folder / _VAL,
            classes=classes,
            keep_images_without_boxes=True,
            progress=told(sources.val),
        )


def open_data(config: TrainConfig, folder: Path) -> DetectionData | ClassificationData:
    """The indexed data in `folder`. Raises ValueError where there are none."""
    has_val = (folder / _VAL).is_dir()
    if config.model.is_classifier:
        train = FolderIndex.open(folder / _TRAIN)
        return ClassificationData(train, FolderIndex.open(folder / _VAL) if has_val else None)
    index = DetectionIndex.open(folder / _TRAIN)
    return DetectionData(index, DetectionIndex.open(folder / _VAL) if has_val else None)


def fingerprints(config: TrainConfig, data: Path) -> dict[str, str]:
    """Split to what tells the files of the data set at `data` from others.

    Raises ValueError for a folder without a data set that suits the recipe.
    """
    if config.model.is_classifier:
        found = find_image_folders(data)
        return {
            split: images_fingerprint(images)
            for split, images in ((_TRAIN, found.train), (_VAL, found.val))
            if images is not None
        }
    sources = find_data(data, variant(config.model.name).task)
    return {
        split: fingerprint(source)
        for split, source in ((_TRAIN, sources.train), (_VAL, sources.val))
        if source is not None
    }


def indexed_fingerprints(folder: Path) -> dict[str, str]:
    """The same of the data sets that are indexed in `folder`, as they were then."""
    found: dict[str, str] = {}
    for split in (_TRAIN, _VAL):
        with suppress(ValueError):
            found[split] = DetectionIndex.open(folder / split).meta.key.fingerprint
        with suppress(ValueError):
            found[split] = FolderIndex.open(folder / split).meta.fingerprint
    return found
