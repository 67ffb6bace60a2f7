"""A data set rewritten in another format: read twice, first to know it whole, then to write it.

What the new format cannot hold is counted under a name that says what became of it.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from model.config import Task
from training.data.formats.checks import Findings
from training.data.formats.image_headers import read_image_size
from training.data.formats.instance_checks import fault_of
from training.data.formats.label_files import IMAGE_SUFFIXES
from training.data.formats.layouts import DataFormat, DataSource, Split, find_data, other_splits
from training.data.formats.readers import open_records
from training.data.formats.records import Categories, Category, ImageRecord, InstanceRecord
from training.data.writing.base import SetWriter, new_folder
from training.data.writing.coco import CocoWriter
from training.data.writing.dota import DotaWriter
from training.data.writing.file_names import FileNames
from training.data.writing.orientation import counted_as
from training.data.writing.yolo import Form, YoloWriter

#: Told what is being done, for how many images it is, and of how many.
Progress = Callable[[str, int, int], None]

#: What is not carried over.
OTHER_SPLITS = "splits to test on, left out: train and val alone are converted"

#: What YOLO's lines hold for each task.
_YOLO_FORMS: dict[Task, Form] = {"detect": "box", "instance": "polygon", "rotated": "corners"}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What to make: a format, annotations for a task, and images copied or as symbolic links.

    Without a `task` everything is kept that the format can hold. Raises ValueError for a task
    that the format is not for.
    """

    to: DataFormat
    task: Task | None = None
    link: bool = False

    def __post_init__(self) -> None:
        if self.to == "dota" and self.task not in (None, "rotated"):
            raise ValueError(f"DOTA holds rotated boxes: nothing for the task '{self.task}'")


@dataclass(frozen=True)
class Converted:
    """What was written: images of each split, and what was lost, changed or noticed."""

    task: Task
    num_images: dict[Split, int]
    remarks: dict[str, int]


@dataclass
class _Survey:
    """What the first reading tells."""

    categories: list[Category] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    num_images: Counter[Split] = field(default_factory=Counter)
    has_outlines: bool = False


def convert(
    source: Path,
    out: Path,
    conversion: Conversion,
    progress: Progress = lambda _what, _done, _total: None,
) -> Converted:
    """Write the data set in the folder `source` into the new folder `out`.

    Raises ValueError where there is no data set, where `out` holds something already, and for
    classes that the format cannot name; BrokenData for annotations that must be mended.
    """
    wants_rotated = "rotated" in (conversion.task, _TASKS_OF_FORMATS.get(conversion.to))
    found = find_data(source, "rotated" if wants_rotated else "detect")
    sources = [split for split in (found.train, found.val) if split is not None]
    with new_folder(out) as part:
        survey = _survey(sources, conversion, progress)
        survey.remarks[OTHER_SPLITS] += bool(other_splits(source))
        task = conversion.task or _default_task(found.train, conversion, survey)
        losses = Counter[str]()
        writer = _writer(part, conversion, task, survey, losses)
        for split in sources:
            _write_split(split, writer, conversion, losses, progress)
        writer.finish()
        remarks = dict(+(survey.remarks + losses))
    return Converted(task, dict(survey.num_images), remarks)


_TASKS_OF_FORMATS: dict[DataFormat, Task] = {"dota": "rotated"}


def _survey(sources: list[DataSource], conversion: Conversion, progress: Progress) -> _Survey:
    """Read and check everything. Raises BrokenData."""
    survey = _Survey()
    listed: list[Categories] = []
    met: dict[str, None] = {}
    for source in sources:
        findings = Findings(source.path)
        stream = open_records(source, findings, with_outlines=True)
        for done, image in enumerate(stream.images, 1):
            _check(image, conversion, findings)
            met |= dict.fromkeys(instance.category for instance in image.instances)
            survey.has_outlines |= any(map(_has_outline, image.instances))
            survey.num_images[source.split] += 1
            progress(f"reading {source.split}", done, stream.num_images)
        findings.require_none()
        survey.remarks += findings.remarks
        listed.append(stream.categories)
    survey.categories = _united(listed, met, keeps_ids=sources[0].format == "coco")
    return survey


def _united(listed: list[Categories], met: Collection[str], *, keeps_ids: bool) -> list[Category]:
    """The classes of all splits, those of the first one first; ids from 1 unless they are kept."""
    ids: dict[str, int] = {}
    for categories in listed:
        for category in categories(met) if callable(categories) else categories:
            ids.setdefault(category.name, category.id)
    if not keeps_ids or len(set(ids.values())) < len(ids):
        ids = {name: number for number, name in enumerate(ids, 1)}
    return [Category(number, name) for name, number in ids.items()]


def _has_outline(instance: InstanceRecord) -> bool:
    return not instance.is_crowd and bool(instance.polygons or instance.run_lengths is not None)


def _check(image: ImageRecord, conversion: Conversion, findings: Findings) -> None:
    for instance in image.instances:
        fault = fault_of(instance, "detect")
        if fault is not None:
            findings.problem(image.file, instance.record, fault)
    if conversion.to != "coco" and image.path.suffix.lower() not in IMAGE_SUFFIXES:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        what = f"its name must end as those of images do in this format: {known}"
        findings.problem(image.path, "", what)


def _default_task(source: DataSource, conversion: Conversion, survey: _Survey) -> Task:
    if "dota" in (source.format, conversion.to):
        return "rotated"
    return "instance" if survey.has_outlines else "detect"


def _writer(
    folder: Path, conversion: Conversion, task: Task, survey: _Survey, losses: Counter[str]
) -> SetWriter:
    if conversion.to == "coco":
        return CocoWriter(folder, survey.categories, losses, boxes_only=task == "detect")
    if conversion.to == "dota":
        return DotaWriter(folder, survey.categories, losses)
    return YoloWriter(folder, survey.categories, losses, _YOLO_FORMS[task])


def _write_split(
    source: DataSource,
    writer: SetWriter,
    conversion: Conversion,
    losses: Counter[str],
    progress: Progress,
) -> None:
    folder = writer.image_folder(source.split)
    folder.mkdir(parents=True)
    names = FileNames(source.images, losses)
    for done, (image, num_images) in enumerate(_images(source, writer), 1):
        name = names.name(image.path)
        writer.add(source.split, image, name)
        if conversion.link:
            os.symlink(image.path.resolve(), folder / name)
        else:
            shutil.copyfile(image.path, folder / name)
        progress(f"writing {source.split}", done, num_images)


def _images(source: DataSource, writer: SetWriter) -> Iterator[tuple[ImageRecord, int]]:
    """The images as the writer counts their pixels, and how many there are."""
    findings = Findings(source.path)
    stream = open_records(source, findings, with_outlines=True)
    for image in stream.images:
        yield (
            counted_as(
                image,
                read_image_size(image.path),
                is_upright=stream.are_upright,
                wants_upright=writer.is_upright,
            ),
            stream.num_images,
        )
    # What was sound a moment ago may have been changed meanwhile.
    findings.require_none()
