"""Data sets with one text file of annotations for each image: which belong together.

The files give no sizes and no ids: sizes are read from the images, ids are positions.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from training.data.checks import Findings
from training.data.image_headers import UnreadableImage, read_image_sizes
from training.data.records import ImageRecord, InstanceRecord

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

#: Remark that is counted.
NO_LABEL_FILE = "images without a label file, taken as images without boxes"

#: Reads the lines of one file, given height and width of its image: each annotation, or what is
#: wrong with it, with the number of its line.
LinesReader = Callable[[list[str], tuple[int, int]], Iterator[tuple[int, InstanceRecord | str]]]


def images_in(folder: Path) -> list[Path]:
    """Every image in a folder and below it, sorted."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))


def require_images(pairs: Iterable[tuple[Path, Path]], labels: Path, findings: Findings) -> None:
    """Note a problem for every label file in `labels` that belongs to no image."""
    known = {label_file for _, label_file in pairs}
    for file in sorted(labels.rglob("*.txt")):
        if file not in known and file.name != "classes.txt":
            findings.problem(file, "", "holds annotations, but there is no image of this name")


def labelled_images(
    pairs: list[tuple[Path, Path]], findings: Findings, annotations_in: LinesReader
) -> Iterator[ImageRecord]:
    """The images of (image, label file), each with the annotations of its file."""
    num_annotations = 0
    sizes = read_image_sizes(image for image, _ in pairs)
    for position, ((image, label_file), size) in enumerate(zip(pairs, sizes, strict=True)):
        if isinstance(size, UnreadableImage):
            findings.problem(image, "", str(size))
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
    try:
        return file.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        findings.remark(NO_LABEL_FILE)
    except (OSError, UnicodeDecodeError) as error:
        findings.problem(file, "", f"cannot be read as text: {error}")
    return []
