"""From records to columns: each is checked, boxes take the task's form, names become labels."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.config import Task
from model.nearest import nearest_hint
from training.data.formats.checks import Findings
from training.data.formats.instance_checks import (
    CROWD,
    DIFFICULT,
    REACHES_OUT,
    SKIPPED,
    area_of,
    box_of,
    fault_of,
    reaches_outside,
    reason_to_skip,
)
from training.data.formats.records import Categories, Category, ImageRecord, InstanceRecord
from training.data.indexing.packing import ImageColumns, InstanceColumns, packed

#: Remarks that are counted.
WITHOUT_BOXES = "images without a box to train on, left out"
UNUSED_CLASS = "classes without any annotation"
SHORT_SIDED = "images with a side that is too short, left out"


class Recorder:
    """Takes image after image and gives the arrays of an index.

    `asked` are the classes that the labels have to mean, None for those of the files.
    """

    def __init__(
        self, task: Task, findings: Findings, categories: Categories, asked: tuple[str, ...] | None
    ) -> None:
        self.findings = findings
        self.num_trained = 0
        self._task: Task = task
        self._categories = categories
        self._asked = asked
        self._images = ImageColumns()
        self._instances = InstanceColumns()
        #: The names met so far, numbered, and where each was met first.
        self._numbers: dict[str, int] = {}
        self._places: dict[str, tuple[Path, str]] = {}

    def add(self, image: ImageRecord, *, keep_empty: bool, min_side: int) -> None:
        """Check the image's annotations, and keep it or leave it out."""
        sound = [instance for instance in image.instances if self._is_sound(instance, image)]
        if min(image.height, image.width) < min_side:
            self.findings.remark(SHORT_SIDED)
            return
        rows = [self._row(instance, image) for instance in sound]
        num_trained = sum(flags == 0 for _, flags, _ in rows)
        if not num_trained and not keep_empty:
            self.findings.remark(WITHOUT_BOXES)
            return
        self.num_trained += num_trained
        for instance, (box, flags, area) in zip(sound, rows, strict=True):
            number = self._number(instance, image)
            self._instances.add(instance.id, box, number, flags, area)
            if self._task == "instance":
                self._instances.add_outline(instance)
        self._images.paths.add(str(image.path.absolute()))
        self._images.sizes.extend((image.height, image.width))
        self._images.ids.append(image.id)
        self._images.instance_offsets.append(len(self._instances.ids))

    def _is_sound(self, instance: InstanceRecord, image: ImageRecord) -> bool:
        fault = fault_of(instance, self._task)
        if fault is not None:
            self.findings.problem(image.file, instance.record, fault)
        return fault is None

    def _row(
        self, instance: InstanceRecord, image: ImageRecord
    ) -> tuple[tuple[float, ...], int, float]:
        """Box, flags and area."""
        box = box_of(instance, image, self._task)
        area = area_of(instance, box, self._task)
        flags = CROWD * instance.is_crowd | DIFFICULT * instance.is_difficult
        reason = reason_to_skip(instance, image, box, area)
        if reason is not None:
            self.findings.remark(reason)
            flags |= SKIPPED
        elif self._task != "rotated" and reaches_outside(box, image):
            self.findings.remark(REACHES_OUT)
        return box, flags, area

    def _number(self, instance: InstanceRecord, image: ImageRecord) -> int:
        if instance.category not in self._numbers:
            self._places[instance.category] = (image.file, instance.record)
        return self._numbers.setdefault(instance.category, len(self._numbers))

    def ordered_categories(self) -> tuple[Category, ...]:
        """The classes in the order of the labels, -1 as the id of those that no file lists.

        A class that is met and not among the asked ones is noted as a problem.
        """
        categories = self._categories
        listed = categories(self._numbers) if callable(categories) else categories
        if self._asked is None:
            for _ in {category.name for category in listed} - self._numbers.keys():
                self.findings.remark(UNUSED_CLASS)
            return listed
        for category in listed:
            if category.name in self._numbers and category.name not in self._asked:
                file, record = self._places[category.name]
                hint = nearest_hint(category.name, self._asked)
                what = f"the class '{category.name}' is not among those that are trained{hint}"
                self.findings.problem(file, record, what)
        ids = {category.name: category.id for category in listed}
        return tuple(Category(ids.get(name, -1), name) for name in self._asked)

    def arrays(self, classes: tuple[Category, ...]) -> dict[str, NDArray]:
        """The columns, with labels that count `classes`."""
        labels = {category.name: label for label, category in enumerate(classes)}
        label_of_number = np.array([labels[name] for name in self._numbers], np.int32)
        arrays = packed(
            self._images,
            self._instances,
            box_size=5 if self._task == "rotated" else 4,
            with_outlines=self._task == "instance",
        )
        return arrays | {"labels": label_of_number[arrays["labels"]]}
