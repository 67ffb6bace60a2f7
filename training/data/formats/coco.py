"""Reads COCO's JSON: polygons, run lengths, crowds.

The file is parsed whole, once, in one process; what is kept of it is the index.
"""

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.formats.checks import Findings, broken
from training.data.formats.coco_values import (
    BadValue,
    area_of,
    box_of,
    crowd_of,
    excerpt,
    is_name,
    is_side,
    is_whole,
    segmentation_of,
    summary,
)
from training.data.formats.image_headers import UnreadableImage, read_image_sizes
from training.data.formats.layouts import DataSource
from training.data.formats.records import Category, ImageRecord, InstanceRecord, RecordStream

#: Remarks that are counted.
LISTED_TWICE = "images of a file that is listed before, taken as images of their own"
BACKSLASHES = "names of images with backslashes, read as slashes"

#: One entry of the JSON's lists.
_Entry = dict[str, Any]


def read_coco(source: DataSource, findings: Findings, *, with_outlines: bool) -> RecordStream:
    """Read `source`; what is wrong with single entries goes to `findings`.

    Segmentations are looked at `with_outlines` alone: sets of boxes often hold odd ones. Raises
    BrokenData for a file that is no COCO JSON.
    """
    (file,) = source.annotations
    reader = _CocoReader(file, source.images, findings, with_outlines)
    return RecordStream(
        reader.categories(), len(reader.content["images"]), reader.images(), are_upright=False
    )


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
            if not is_whole(number) or not is_name(name):
                what = f"category {excerpt(number)}: needs a whole 'id' and a 'name'"
                raise broken(self._file, what)
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
        times = Counter(names.values())
        repeated = {number for number, name in names.items() if times[name] > 1}
        if not repeated:
            return repeated
        used = (entry.get("category_id") for entry in self.content["annotations"])
        return repeated - {number for number in used if is_whole(number)}

    def images(self) -> Iterator[ImageRecord]:
        """The images in the file's order, each with its annotations."""
        identified = list(self._identified("images", "image"))
        by_image = self._annotations_by_image(identified)
        # From here on each annotation is held by its image alone, and goes when it was read.
        self.content["annotations"] = []
        folder = self._image_folder()
        entries = [entry for entry in identified if self._is_sound(entry)]
        paths = [self._image_path(folder, entry["file_name"]) for entry in entries]
        for _ in range(len(paths) - len(set(paths))):
            self._findings.remark(LISTED_TWICE)
        sizes = read_image_sizes(paths)
        for entry, path, size in zip(entries, paths, sizes, strict=True):
            record = f"image {entry['id']}"
            height, width = int(entry["height"]), int(entry["width"])
            if isinstance(size, UnreadableImage):
                self._findings.unreadable_image(path, self._file, record, str(size))
                continue
            if not size.agrees_with(height, width):
                stated = f"{path} is {size.width}x{size.height}"
                what = f"states {width}x{height} pixels, but {stated}"
                self._findings.problem(self._file, record, what)
                continue
            instances = self._instances(by_image.pop(entry["id"]), height, width)
            yield ImageRecord(entry["id"], path, height, width, self._file, list(instances))

    def _identified(self, name: str, kind: str) -> Iterator[_Entry]:
        """The entries of a list that have an id of their own."""
        seen: set[int] = set()
        for position, entry in enumerate(self.content[name]):
            number = entry.get("id")
            if not is_whole(number):
                record = f"{kind} at position {position} of the list"
                self._findings.problem(self._file, record, "needs a whole number as its 'id'")
            elif number in seen:
                self._findings.problem(self._file, f"{kind} {number}", "the id stands twice")
            else:
                seen.add(number)
                yield entry

    def _annotations_by_image(self, images: list[_Entry]) -> dict[int, list[_Entry]]:
        by_image: dict[int, list[_Entry]] = {entry["id"]: [] for entry in images}
        for entry in self._identified("annotations", "annotation"):
            image = entry.get("image_id")
            if is_whole(image) and image in by_image:
                by_image[image].append(entry)
            else:
                record = f"annotation {entry['id']}"
                what = f"is for image {excerpt(image)}, which is none"
                self._findings.problem(self._file, record, what)
        return by_image

    def _is_sound(self, entry: _Entry) -> bool:
        what = ""
        if not is_name(entry.get("file_name")):
            what = "needs a 'file_name'"
        elif not all(is_side(entry.get(side)) for side in ("height", "width")):
            what = "needs 'height' and 'width' in whole pixels"
        if what:
            self._findings.problem(self._file, f"image {entry['id']}", what)
        return not what

    def _image_path(self, folder: Path, name: str) -> Path:
        if "\\" in name and not os.path.isfile(folder / name):
            self._findings.remark(BACKSLASHES)
            name = name.replace("\\", "/")
        return folder / name

    def _image_folder(self) -> Path:
        """The folder that holds the first image that is found in any."""
        images = self.content["images"]
        for entry in images[:100]:
            name = str(entry.get("file_name"))
            for folder in self._folders:
                # Not Path.is_file, which raises for names that are too long.
                if any(os.path.isfile(folder / each) for each in (name, name.replace("\\", "/"))):
                    return folder
        if not self._folders:
            raise broken(self._file, "there is no folder of images beside the file")
        return self._folders[0]

    def _instances(
        self, entries: list[_Entry], height: int, width: int
    ) -> Iterator[InstanceRecord]:
        for entry in entries:
            try:
                yield self._instance(entry, height, width)
            except BadValue as error:
                self._findings.problem(self._file, f"annotation {entry['id']}", str(error))

    def _instance(self, entry: _Entry, height: int, width: int) -> InstanceRecord:
        category = entry.get("category_id")
        if not is_whole(category) or category not in self._names:
            known = f"the categories are {summary(sorted(self._names))}"
            raise BadValue(f"is of category {excerpt(category)}, which is none; {known}")
        polygons, run_lengths = (), None
        if self._with_outlines:
            polygons, run_lengths = segmentation_of(entry.get("segmentation"), height, width)
        return InstanceRecord(
            record=f"annotation {entry['id']}",
            id=entry["id"],
            category=self._names[category],
            box_xyxy=box_of(entry.get("bbox")),
            polygons=polygons,
            run_lengths=run_lengths,
            is_crowd=crowd_of(entry.get("iscrowd")),
            area=area_of(entry.get("area")),
        )


def _load(file: Path) -> dict[str, list[_Entry]]:
    try:
        content = _parse(file.read_bytes())
    except json.JSONDecodeError as error:
        what = f"line {error.lineno}, column {error.colno}: no JSON ({error.msg}); is it cut off?"
        raise broken(file, what) from error
    except (ValueError, RecursionError) as error:
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


def _parse(data: bytes) -> Any:
    # The collector would look through the millions of new objects again and again, which nearly
    # doubles the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(data)
    finally:
        if was_enabled:
            gc.enable()
