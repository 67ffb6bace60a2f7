"""The annotated images of an evaluation, with the labels of the model that is evaluated.

The data's classes are found among the model's by their names. Either may have more than the other;
what only one of them has is left out, and told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.config import Task
from model.nearest import nearest_hint
from training.data.formats.checks import Findings
from training.data.formats.layouts import Split, find_split
from training.data.indexing.detection_index import (
    DetectionIndex,
    EvaluationAnnotations,
    build_index,
)

#: Names of classes that a message lists.
_MAX_LISTED = 5


@dataclass(frozen=True)
class DataIdentity:
    """Which data: the folder or file, the part of it, its format."""

    path: Path
    split: Split
    format: str

    @property
    def name(self) -> str:
        """The name of the folder or file."""
        return self.path.resolve().name


class ReadableFindings(Findings):
    """Takes images that cannot be read for no problem: they are left out, and told."""

    def __init__(self, source: Path) -> None:
        super().__init__(source)
        self.unreadable: list[str] = []

    def unreadable_image(self, path: Path, file: Path, record: str, what: str) -> None:
        """Note it."""
        self.unreadable.append(f"{path}: {what}")


class LabelledForModel:
    """A data set whose labels are the model's; instances of classes that it lacks are left out.

    `unknown` are classes of the data that the model does not know, `absent` those that only it
    knows; `unreadable` has a line for each image that was left out. Raises ValueError where they
    have no class in common.
    """

    def __init__(
        self, index: DetectionIndex, classes: Sequence[str], unreadable: Sequence[str] = ()
    ) -> None:
        self.index = index
        self.unreadable = tuple(unreadable)
        self.classes = tuple(classes)
        self.are_upright = index.are_upright
        labels = {name: label for label, name in enumerate(classes)}
        self._labels = np.array([labels.get(name, -1) for name in index.classes], np.int64)
        self.unknown = tuple(name for name in index.classes if name not in labels)
        self.absent = tuple(name for name in classes if name not in index.classes)
        if len(self.unknown) == len(index.classes):
            raise ValueError(
                f"{index.meta.key.source}: none of its classes is one of the model's: it has "
                f"{listed(index.classes)}, the model {listed(self.classes)}"
                f"{_did_you_mean(index.classes, self.classes)}"
            )

    def __len__(self) -> int:
        return len(self.index)

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        return self.index.image_path(position)

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width in pixels, as the annotations count them."""
        return self.index.image_size(position)

    def evaluation_annotations(self, position: int) -> EvaluationAnnotations:
        """What predictions for the image are compared with."""
        whole = self.index.evaluation_annotations(position)
        labels = self._labels[whole.labels]
        known = labels >= 0
        masks = whole.masks
        if masks is not None:
            masks = tuple(mask for mask, is_known in zip(masks, known, strict=True) if is_known)
        return replace(
            whole,
            boxes=whole.boxes[known],
            labels=labels[known],
            areas=whole.areas[known],
            is_crowd=whole.is_crowd[known],
            is_difficult=whole.is_difficult[known],
            ids=whole.ids[known],
            masks=masks,
        )

    def category_ids(self) -> dict[int, int]:
        """The id that the file has for a label, for those labels that it has."""
        pairs = zip(self._labels.tolist(), self.index.category_ids, strict=True)
        return {label: category for label, category in pairs if label >= 0}

    def remarks(self) -> list[str]:
        """What was noticed, a line each."""
        lines = [f"{count} x {remark}" for remark, count in self.index.meta.remarks.items()]
        if self.unknown:
            lines.append(f"the model does not know {listed(self.unknown)}: not evaluated")
        if self.absent:
            lines.append(f"the data have no class {listed(self.absent)}: not evaluated")
        return lines


def open_images(
    path: Path,
    split: Split,
    *,
    task: Task,
    classes: Sequence[str],
    folder: Path,
    progress: Callable[[int, int], None],
    skips_unreadable: bool = False,
) -> tuple[LabelledForModel, DataIdentity]:
    """The images of a data set with the model's labels, indexed into `folder`.

    Raises ValueError for a data set that cannot be found, read, or measured with this model.
    """
    source = find_split(path, split, task)
    tolerant = ReadableFindings(source.path)
    index = build_index(
        source,
        task=task,
        folder=folder,
        keep_images_without_boxes=True,
        progress=progress,
        findings=tolerant if skips_unreadable else None,
    )
    images = LabelledForModel(index, classes, tolerant.unreadable)
    return images, DataIdentity(path, split, source.format)


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:_MAX_LISTED])
    more = len(names) - _MAX_LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def _did_you_mean(theirs: Sequence[str], ours: Sequence[str]) -> str:
    for name in theirs:
        hint = nearest_hint(name, ours)
        if "did you mean" in hint:
            return f" ('{name}'{hint})".replace("; ", ": ")
    return ""
