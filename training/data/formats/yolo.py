"""Reads YOLO's text files: a class number, then a box, a polygon or four corners.

All are in shares of the image's width and height. What a line holds is told by how many numbers
follow the class: four are a box (centre and size), six or more a polygon. The four corners of an
oriented box are a polygon too.
"""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np

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

_BOX_NUMBERS = 4
_LEAST_POLYGON_NUMBERS = 6

#: Classes that nobody names: each number up to the highest becomes one.
_MOST_UNNAMED = 10_000

#: Corners may lie outside of the image, but not as far as this; pixels do.
_LARGEST_SHARE = 2


def read_yolo(source: DataSource, findings: Findings) -> RecordStream:
    """Read `source`; what is wrong with single lines goes to `findings`.

    Classes that no file names are called by their numbers. Raises BrokenData where there is no
    image, or no folder of labels.
    """
    pairs: list[ImageAndLabels] = []
    for place in source.images:
        pairs += _pairs(place, findings)
    read = partial(annotations_in, names=source.names)
    categories = numbered_categories
    if source.names is not None:
        categories = tuple(Category(*pair) for pair in enumerate(source.names))
    images = labelled_images(pairs, findings, read)
    return RecordStream(categories, len(pairs), images, are_upright=True)


def label_folder(images: Path) -> Path:
    """Where the labels of a folder of images lie: its last `images` becomes `labels`."""
    parts = list(images.parts)
    places = [place for place, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts)


def _pairs(place: Path, findings: Findings) -> list[ImageAndLabels]:
    """Images and their label files, of a folder or of a text file that lists images."""
    if place.is_file():
        lines = _listed(place)
        listed = [place.parent / line.strip() for line in lines if line.strip()]
        if not listed:
            raise broken(place, "lists no image")
        return [_pair(image, label_folder(image.parent)) for image in listed]
    images, labels = images_in(place), label_folder(place)
    if not images:
        raise broken(place, "there is no image in this folder")
    if not labels.is_dir():
        raise broken(labels, f"there is no such folder, with labels of the images in {place}")
    pairs = [_pair(image, labels / image.parent.relative_to(place)) for image in images]
    note_strays(pairs, labels, findings)
    return pairs


def _listed(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise broken(file, f"cannot be read as text: {error}") from error


def _pair(image: Path, labels: Path) -> ImageAndLabels:
    return ImageAndLabels(image, labels / f"{image.stem}.txt")


def numbered_categories(names: Collection[str]) -> tuple[Category, ...]:
    """Classes without names, from 0 to the highest number that was met."""
    numbers = range(max(map(int, names), default=-1) + 1)
    return tuple(Category(number, str(number)) for number in numbers)


def annotations_in(
    lines: list[str], size: tuple[int, int], *, names: tuple[str, ...] | None
) -> Iterator[tuple[int, InstanceRecord | str]]:
    """Each annotation of a file, or what is wrong with it, with the number of its line."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _annotation(number, line.split(), size, names)


def _class_number(word: str) -> int:
    # Tools that write all numbers alike write 2.0 for 2.
    whole, _, share = word.partition(".")
    if share.strip("0"):
        raise ValueError(word)
    return int(whole)


def _annotation(
    number: int, words: list[str], size: tuple[int, int], names: tuple[str, ...] | None
) -> InstanceRecord | str:
    try:
        category = _class_number(words[0])
        shares = np.array([float(word) for word in words[1:]], np.float64)
    except ValueError:
        return f"must be a class number and numbers: {' '.join(words)[:80]}"
    if category < 0 or (names is not None and category >= len(names)):
        known = f"; there are {len(names)}, from 0" if names else ""
        return f"is of class {words[0][:20]}, which is none{known}"
    if names is None and category >= _MOST_UNNAMED:
        most = f"without a list of names there are {_MOST_UNNAMED:,} at most, from 0"
        return f"is of class {words[0][:20]}, which is none: {most}"
    if len(shares) != _BOX_NUMBERS and (len(shares) < _LEAST_POLYGON_NUMBERS or len(shares) % 2):
        return (
            f"has {len(shares)} numbers behind the class: 4 are a box, and a polygon of at least "
            "3 points has an even number from 6"
        )
    if (abs(shares) > _LARGEST_SHARE).any():
        return "has numbers above 2; they must be shares of the image's size, not pixels"
    height, width = size
    points = (shares.reshape(-1, 2) * (width, height)).ravel()
    name = str(category) if names is None else names[category]
    if len(shares) == _BOX_NUMBERS:
        x, y, box_width, box_height = points.tolist()
        box = (x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2)
        return InstanceRecord(f"line {number}", number, name, box)
    polygon = single_precision(points)
    return InstanceRecord(f"line {number}", number, name, hull_xyxy(polygon), (polygon,))
