"""Reads DOTA's text files: four corners, the class, whether it is difficult."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from model.checkpoints.class_names import DOTA
from training.data.formats.checks import Findings, broken
from training.data.formats.label_files import (
    ImageAndLabels,
    images_in,
    labelled_images,
    note_strays,
)
from training.data.formats.layouts import DataSource
from training.data.formats.records import (
    Category,
    InstanceRecord,
    RecordStream,
    hull_xyxy,
    single_precision,
)

#: Classes that later releases added, in their order.
_PUBLISHED_ORDER = (*DOTA, "container-crane", "airport", "helipad")

#: First words of the lines above the annotations.
_HEADERS = ("imagesource", "gsd")
_NUM_COORDINATES = 8


def read_dota(source: DataSource, findings: Findings) -> RecordStream:
    """Read `source`; what is wrong with single lines goes to `findings`.

    Classes are those that occur: in the published order where all are DOTA's, else by name.
    Raises BrokenData where there is no image.
    """
    (images,), (labels,) = source.images, source.annotations
    pairs = paired_by_stem(images, labels)
    note_strays(pairs, labels, findings)
    images_read = labelled_images(pairs, findings, annotations_in)
    return RecordStream(class_order, len(pairs), images_read, are_upright=True)


def paired_by_stem(images: Path, labels: Path) -> list[ImageAndLabels]:
    """The images of a folder with their label files. Raises BrokenData where there is no image."""
    found = images_in(images)
    if not found:
        raise broken(images, "there is no image in this folder")
    return [ImageAndLabels(image, labels / f"{image.stem}.txt") for image in found]


def class_order(names: Collection[str]) -> tuple[Category, ...]:
    """Names put into order and numbered."""
    if all(name in _PUBLISHED_ORDER for name in names):
        ordered = sorted(names, key=_PUBLISHED_ORDER.index)
    else:
        ordered = sorted(names)
    return tuple(Category(number, name) for number, name in enumerate(ordered))


def annotations_in(
    lines: list[str], _size: tuple[int, int]
) -> Iterator[tuple[int, InstanceRecord | str]]:
    """Each annotation of a file, or what is wrong with it, with the number of its line."""
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and not words[0].lower().startswith(_HEADERS):
            yield number, _annotation(number, words)


def _annotation(number: int, words: list[str]) -> InstanceRecord | str:
    """A class may not hold blanks; what stands behind the difficulty is passed over."""
    if len(words) < _NUM_COORDINATES + 1:
        return f"needs 8 coordinates and a class, but has {len(words)} words"
    try:
        corners = np.array([float(word) for word in words[:_NUM_COORDINATES]])
    except ValueError:
        return f"the coordinates must be numbers: {' '.join(words[:_NUM_COORDINATES])[:80]}"
    polygon = single_precision(corners)
    difficulty = words[_NUM_COORDINATES + 1] if len(words) > _NUM_COORDINATES + 1 else "0"
    if difficulty not in ("0", "1", "2"):
        return f"the difficulty must be 0, 1 or 2, not '{difficulty}'"
    return InstanceRecord(
        record=f"line {number}",
        id=number,
        category=words[_NUM_COORDINATES],
        box_xyxy=hull_xyxy(polygon),
        polygons=(polygon,),
        is_difficult=difficulty != "0",
    )
