"""Reads COCO's JSON: polygons, run lengths, crowds.

The file is parsed whole, once, in one process; what is kept of it is the index.
"""

import json
import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from training.data.annotations import Floats
from training.data.checks import Findings, broken
from training.data.image_headers import UnreadableImage, read_image_sizes
from training.data.layouts import DataSource
from training.data.records import Category, ImageRecord, InstanceRecord, RecordStream
from training.data.run_lengths import compressed

#: One entry of the JSON's lists.
_Entry = dict[str, Any]


class _BadEntry(ValueError):
    """An entry of the file that cannot be used."""


def read_coco(source: DataSource, findings: Findings, *, with_outlines: bool) -> RecordStream:
    """Read `source`; what is wrong with single entries goes to `findings`.

    Segmentations are looked at `with_outlines` alone: sets of boxes often hold odd ones. Raises
    BrokenData for a file that is no COCO JSON.
    """
    (file,) = source.annotations
    reader = _CocoReader(file, source.images, findings, with_outlines)
    return RecordStream(reader.categories(), len(reader.content["images"]), reader.images())


class _CocoReader:
    def __init__(
        self, file: Path, folders: tuple[Path, ...], findings: Findings, with_outlines: bool
    ) -> None:
        self.content = _load(file)
        self._file = file
        self._folders = folders
        self._findings = findings
        self._with_outlines = with_outlines
        self._names: dict[int, str] = {}

    def categories(self) -> tuple[Category, ...]:
        """Classes by id, each name once."""
        names: dict[int, str] = {}
        for entry in self.content["categories"]:
            number, name = entry.get("id"), entry.get("name")
            if type(number) is not int or not isinstance(name, str) or not name.strip():
                raise broken(self._file, f"category {number!r}: needs a whole 'id' and a 'name'")
            if number in names:
                raise broken(self._file, f"category {number}: the id stands twice")
            names[number] = name
        self._names = names
        unused = self._repeated_and_unused(names)
        kept = [Category(number, names[number]) for number in sorted(names.keys() - unused)]
        seen: dict[str, int] = {}
        for number, name in kept:
            if name in seen:
                what = f"category {number}: is called '{name}' like category {seen[name]}"
                raise broken(self._file, what)
            seen[name] = number
        return tuple(kept)

    def _repeated_and_unused(self, names: dict[int, str]) -> set[int]:
        """Some exports list the parent of the classes as a class of the same name."""
        all_names = list(names.values())
        repeated = {number for number, name in names.items() if all_names.count(name) > 1}
        if not repeated:
            return repeated
        return repeated - {entry.get("category_id") for entry in self.content["annotations"]}

    def images(self) -> Iterator[ImageRecord]:
        """The images in the file's order, each with its annotations."""
        by_image = self._annotations_by_image()
        folder = self._image_folder()
        entries = list(self._sound_images())
        sizes = read_image_sizes(folder / entry["file_name"] for entry in entries)
        for entry, size in zip(entries, sizes, strict=True):
            record = f"image {entry['id']}"
            path = folder / entry["file_name"]
            height, width = int(entry["height"]), int(entry["width"])
            if isinstance(size, UnreadableImage):
                self._findings.problem(self._file, record, f"{path}: {size}")
                continue
            if not size.agrees_with(height, width):
                stated = f"{path} is {size.width}x{size.height}"
                what = f"states {width}x{height} pixels, but {stated}"
                self._findings.problem(self._file, record, what)
                continue
            instances = self._instances(by_image.pop(entry["id"], ()), height, width)
            yield ImageRecord(entry["id"], path, height, width, self._file, list(instances))

    def _annotations_by_image(self) -> dict[object, list[_Entry]]:
        by_image: dict[object, list[_Entry]] = {
            entry.get("id"): [] for entry in self.content["images"]
        }
        seen: set[object] = set()
        for position, entry in enumerate(self.content["annotations"]):
            number, image = entry.get("id"), entry.get("image_id")
            record = f"annotation {number}"
            if type(number) is not int:
                record = f"annotation at position {position} of the list"
                self._findings.problem(self._file, record, "needs a whole number as its 'id'")
            elif number in seen:
                self._findings.problem(self._file, record, "the id stands twice")
            elif type(image) is not int or image not in by_image:
                self._findings.problem(self._file, record, f"is for image {image!r}, which is none")
            else:
                by_image[image].append(entry)
            seen.add(number)
        return by_image

    def _sound_images(self) -> Iterator[_Entry]:
        seen: set[object] = set()
        for position, entry in enumerate(self.content["images"]):
            number = entry.get("id")
            record, what = f"image {number!r}", ""
            if type(number) is not int:
                record = f"image at position {position} of the list"
                what = "needs a whole number as its 'id'"
            elif number in seen:
                what = "the id stands twice"
            elif not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
                what = "needs a 'file_name'"
            elif not all(_is_side(entry.get(side)) for side in ("height", "width")):
                what = "needs 'height' and 'width' in whole pixels"
            if what:
                self._findings.problem(self._file, record, what)
            else:
                yield entry
            seen.add(number)

    def _image_folder(self) -> Path:
        """The folder that holds the first image that is found in any."""
        images = self.content["images"]
        for entry in images[:100]:
            for folder in self._folders:
                if (folder / str(entry.get("file_name"))).is_file():
                    return folder
        if not self._folders:
            raise broken(self._file, "there is no folder of images beside the file")
        return self._folders[0]

    def _instances(
        self, entries: list[_Entry] | tuple[()], height: int, width: int
    ) -> Iterator[InstanceRecord]:
        for entry in entries:
            try:
                yield self._instance(entry, height, width)
            except _BadEntry as error:
                self._findings.problem(self._file, f"annotation {entry['id']}", str(error))

    def _instance(self, entry: _Entry, height: int, width: int) -> InstanceRecord:
        category = entry.get("category_id")
        if type(category) is not int or category not in self._names:
            known = f"categories are {_summary(sorted(self._names))}"
            raise _BadEntry(f"is of category {category!r}, which is none; the {known}")
        is_crowd = entry.get("iscrowd") in (1, True)
        polygons, run_lengths = (), None
        if self._with_outlines:
            polygons, run_lengths = _segmentation(entry.get("segmentation"), height, width)
        return InstanceRecord(
            record=f"annotation {entry['id']}",
            id=entry["id"],
            category=self._names[category],
            box_xyxy=_box(entry.get("bbox")),
            polygons=polygons,
            run_lengths=run_lengths,
            is_crowd=is_crowd,
            area=_area(entry.get("area")),
        )


def _load(file: Path) -> dict[str, list[_Entry]]:
    try:
        content = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        what = f"line {error.lineno}, column {error.colno}: no JSON ({error.msg}); is it cut off?"
        raise broken(file, what) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise broken(file, f"no JSON: {error}") from error
    except OSError as error:
        raise broken(file, f"cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise broken(file, "must be an object with 'images', 'annotations' and 'categories'")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise broken(file, f"'{key}' must be a list of objects")
        if not entries:
            raise broken(file, f"'{key}' is empty: there is nothing to train on")
    return content


def _box(value: object) -> tuple[float, float, float, float]:
    """COCO's (x, y, w, h) as xyxy."""
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(v) for v in value):
        raise _BadEntry(f"'bbox' must be four numbers, not {_excerpt(value)}")
    x, y, width, height = (float(v) for v in value)
    return x, y, x + width, y + height


def _area(value: object) -> float | None:
    if value is None:
        return None
    if not _is_number(value):
        raise _BadEntry(f"'area' must be a number, not {_excerpt(value)}")
    return float(value)  # type: ignore[arg-type]


def _segmentation(
    value: object, height: int, width: int
) -> tuple[tuple[Floats, ...], bytes | None]:
    """Polygons, or run lengths in their compressed form; neither where there is none."""
    if value is None or value == []:
        return (), None
    if isinstance(value, dict):
        if value.get("size") != [height, width]:
            size = f"{_excerpt(value.get('size'))}, the image is [{height}, {width}]"
            raise _BadEntry(f"its run lengths have the size {size}")
        try:
            return (), compressed(value.get("counts"), height, width)
        except ValueError as error:
            raise _BadEntry(f"has {error}") from error
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise _BadEntry("'segmentation' must be a list of polygons or run lengths")
    return tuple(_polygon(number, polygon) for number, polygon in zip(count(1), value)), None


def _polygon(number: int, values: list[object]) -> Floats:
    if not all(_is_number(value) for value in values):
        raise _BadEntry(f"polygon {number} must be a flat list of numbers")
    return np.asarray(values, np.float32)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_side(value: object) -> bool:
    return _is_number(value) and math.isfinite(value) and value >= 1 and value == int(value)  # type: ignore


def _summary(numbers: list[int]) -> str:
    if len(numbers) <= 10:
        return ", ".join(map(str, numbers))
    return f"{len(numbers)}, from {numbers[0]} to {numbers[-1]}"


def _excerpt(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
