"""Data sets with one text file of annotations for each image: which belong together.

The files give no sizes and no ids: sizes are read from the images, ids are positions.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from training.data.formats.checks import Findings
from training.data.formats.image_headers import UnreadableImage, read_image_sizes
from training.data.formats.records import ImageRecord, InstanceRecord

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

#: Remark that is counted.
NO_LABEL_FILE = "images without a label file, taken as images without boxes"


class ImageAndLabels(NamedTuple):
    """An image and the file of its annotations, which need not be there."""

    image: Path
    labels: Path


#: Reads the lines of one file, given height and width of its image: each annotation, or what is
#: wrong with it, with the number of its line.
LinesReader = Callable[[list[str], tuple[int, int]], Iterator[tuple[int, InstanceRecord | str]]]


def images_in(folder: Path) -> list[Path]:
    """Every image in a folder and below it, sorted."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))


def note_strays(pairs: list[ImageAndLabels], folder: Path, findings: Findings) -> None:
    """Note label files in `folder` that belong to no image, and images that share one."""
    image_of: dict[Path, Path] = {}
    for image, labels in pairs:
        if labels in image_of:
            what = f"has the same label file as {image_of[labels].name}; rename or remove one"
            findings.problem(image, "", what)
        image_of[labels] = image
    for file in sorted(folder.rglob("*.txt")):
        if file not in image_of and file.name != "classes.txt":
            findings.problem(file, "", "holds annotations, but there is no image of this name")


def labelled_images(
    pairs: list[ImageAndLabels], findings: Findings, annotations_in: LinesReader
) -> Iterator[ImageRecord]:
    """The images, each with the annotations of its file; what is wrong goes to `findings`."""
    num_annotations = 0
    sizes = read_image_sizes(pair.image for pair in pairs)
    for position, ((image, label_file), size) in enumerate(zip(pairs, sizes, strict=True)):
        if isinstance(size, UnreadableImage):
            findings.unreadable_image(image, image, "", str(size))
            continue
        height, width = size.upright
        record = ImageRecord(position, image, height, width, label_file)
        lines = _lines(label_file, findings)
        for number, annotation in annotations_in(lines, (height, width)):
            if isinstance(annotation, str):
                findings.problem(label_file, f"line {number}", annotation)
            else:
                num_annotations += 1
                record.instances.append(replace(annotation, id=num_annotations))
        yield record


def _lines(file: Path, findings: Findings) -> list[str]:
    # A pipe would be waited for.
    if os.path.exists(file) and not os.path.isfile(file):
        findings.problem(file, "", "is no file")
        return []
    try:
        return file.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        findings.remark(NO_LABEL_FILE)
    except (OSError, UnicodeDecodeError) as error:
        findings.problem(file, "", f"cannot be read as text: {error}")
    return []
