"""The annotations of one image after another, looked at while the reader of training gives them.

What the reader refuses is not looked at again: `training.data.formats.instance_checks` has told it.
"""

import os
from dataclasses import dataclass

import numpy as np

from model.config import STRIDES, Task
from training.data.checking.boxes import same_pairs
from training.data.checking.findings import Finding, FindingLog, Place
from training.data.checking.instances import InstanceChecks
from training.data.checking.kinds import KINDS
from training.data.checking.outlines import crosses_itself
from training.data.checking.survey import Survey
from training.data.formats.instance_checks import (
    NO_AREA,
    OUTSIDE,
    TOO_SMALL,
    area_of,
    box_of,
    fault_of,
    reason_to_skip,
)
from training.data.formats.records import ImageRecord, InstanceRecord

_SKIPPED = {TOO_SMALL: "degenerate-box", OUTSIDE: "box-outside", NO_AREA: "no-area"}

#: What COCO's figures count, and what serving gives, at most.
_CROWDED, _OVERFULL = 100, 300
#: Images so many times the input's side, whose instances become tiny; whatever becomes of them.
_LARGE, _HUGE = 3.0, 8.0
_TINY_SHARE_OF_LARGE = 0.25
#: The share of a split that must be tiny before that is told.
_TINY_SHARE = 0.1


@dataclass(frozen=True)
class CheckedFor:
    """What the data are to be trained for; `input_size` is (height, width) in pixels.

    Images with a side of less than `min_image_side` pixels are left out, as training does: nothing
    on them is trained on, and classes may be met there alone.
    """

    task: Task
    input_size: tuple[int, int]
    min_image_side: int
    keep_images_without_boxes: bool

    def leaves_out(self, image: ImageRecord) -> bool:
        """Whether the image is too small, whatever is on it."""
        return min(image.height, image.width) < self.min_image_side

    def scale(self, image: ImageRecord) -> float:
        """By how much the image is resized to fit into the input."""
        return min(self.input_size[0] / image.height, self.input_size[1] / image.width)


@dataclass(frozen=True)
class _Trained:
    """An instance that is trained on: its position in the image, its box as the task has it."""

    position: int
    box: tuple[float, ...]

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height."""
        return _sides(self.box)


class AnnotationChecks:
    """Looks at the images of one split, and fills its survey."""

    def __init__(self, survey: Survey, log: FindingLog, checked_for: CheckedFor) -> None:
        self._survey = survey
        self._log = log
        self._for = checked_for
        self._instance_checks = InstanceChecks(checked_for.task, survey.source.format)
        self._tiny = Finding(KINDS["tiny-instances"], survey.split)

    def check(self, image: ImageRecord) -> None:
        """Look at an image and its annotations, all in one go."""
        trained = [
            each for place in range(len(image.instances)) if (each := self._checked(image, place))
        ]
        self._check_pairs(image, trained)
        self._check_contents(image, len(trained))
        self._check_size(image, self._count_tiny(image, trained), len(trained))
        is_kept = bool(trained) or self._for.keep_images_without_boxes
        self._survey.add_image(image, is_used=is_kept and not self._for.leaves_out(image))

    def finish(self) -> None:
        """Tell what only the whole split shows."""
        total = sum(self._survey.trained)
        if self._tiny.count and self._tiny.count >= _TINY_SHARE * total:
            share = f"{self._tiny.count:,} of {total:,}, below {STRIDES[0]} pixels"
            self._log.add_whole(self._tiny, share)

    def _checked(self, image: ImageRecord, position: int) -> _Trained | None:
        """Look at one instance; None if it is not trained on."""
        instance = image.instances[position]
        if fault_of(instance, self._for.task) is not None:
            return None
        box = box_of(instance, image, self._for.task)
        reason = reason_to_skip(instance, image, box, area_of(instance, box, self._for.task))
        is_trained = reason is None and not instance.is_crowd and not instance.is_difficult
        is_trained = is_trained and not self._for.leaves_out(image)
        self._survey.add_instance(instance.category, *_sides(box), is_trained=is_trained)
        if reason == NO_AREA and any(map(crosses_itself, instance.polygons)):
            # Its halves cancel each other out: what is the matter is not the area.
            self._note("crossing-polygon", image, position, what="no area is left, not trained on")
        elif reason is not None:
            self._note(_SKIPPED[reason], image, position)
        elif not instance.is_crowd:
            for code, what in self._instance_checks.remarks(instance, image, _sides(box)):
                self._note(code, image, position, what=what)
        return _Trained(position, box) if is_trained else None

    def _check_pairs(self, image: ImageRecord, trained: list[_Trained]) -> None:
        if len(trained) < 2:
            return
        for pair in same_pairs(np.array([each.box for each in trained])):
            first, second = trained[pair.first].position, trained[pair.second].position
            code, what = _kind_of_pair(image.instances[first], image.instances[second])
            self._note(code, image, first, second, what=what)

    def _check_contents(self, image: ImageRecord, num_trained: int) -> None:
        if not image.instances:
            is_missing = self._survey.source.format != "coco" and not os.path.exists(image.file)
            code = "image-without-label-file" if is_missing else "image-without-boxes"
            self._note_image(code, image)
        elif all(each.is_crowd or each.is_difficult for each in image.instances):
            self._note_image("only-crowd-or-difficult", image)
        if num_trained > _CROWDED:
            code = "overfull-image" if num_trained > _OVERFULL else "crowded-image"
            self._note_image(code, image, f"{num_trained:,} instances")

    def _check_size(self, image: ImageRecord, num_tiny: int, num_trained: int) -> None:
        sides = f"{image.width}x{image.height} pixels"
        if self._for.leaves_out(image):
            self._note_image("short-sided-image", image, sides)
        times = 1 / self._for.scale(image)
        has_tiny = num_tiny > _TINY_SHARE_OF_LARGE * num_trained
        if times > _HUGE or (times > _LARGE and has_tiny):
            self._note_image("large-image", image, sides)

    def _count_tiny(self, image: ImageRecord, trained: list[_Trained]) -> int:
        """How many cover less than a cell of the finest stride, once resized."""
        scale, count = self._for.scale(image), 0
        for each in trained:
            width, height = each.sides
            if width * height * scale**2 < STRIDES[0] ** 2:
                count += 1
                what = f"{width * scale:.1f}x{height * scale:.1f} pixels there"
                self._tiny.add(_place(image, each.position, what=what))
        return count

    def _note(self, code: str, image: ImageRecord, *positions: int, what: str = "") -> None:
        self._log.add(code, self._survey.split, _place(image, *positions, what=what))

    def _note_image(self, code: str, image: ImageRecord, what: str = "") -> None:
        self._log.add(code, self._survey.split, Place(image.path, "", what, image))


def _sides(box: tuple[float, ...]) -> tuple[float, float]:
    return (box[2], box[3]) if len(box) == 5 else (box[2] - box[0], box[3] - box[1])


def _place(image: ImageRecord, *positions: int, what: str) -> Place:
    """The last of the positions is the one to be mended."""
    return Place(image.file, image.instances[positions[-1]].record, what, image, positions)


def _kind_of_pair(first: InstanceRecord, second: InstanceRecord) -> tuple[str, str]:
    """The code for two boxes that are nearly the same, and what is the matter with the second."""
    if first.category != second.category:
        named = f"'{second.category}', and {first.record} is '{first.category}'"
        return "conflicting-annotation", named
    has_same_outline = (
        first.run_lengths == second.run_lengths
        and len(first.polygons) == len(second.polygons)
        and all(map(np.array_equal, first.polygons, second.polygons))
    )
    if first.box_xyxy == second.box_xyxy and has_same_outline:
        return "duplicate-annotation", f"like {first.record}"
    return "near-duplicate-annotation", f"like {first.record}"
