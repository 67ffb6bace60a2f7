"""Which task a data set is likely meant for, where nobody says: told by its annotations."""

import re
from itertools import islice
from pathlib import Path

from model.config import Task
from training.data.formats.label_files import images_in
from training.data.formats.layouts import DataSource
from training.data.formats.yolo import label_folder

_OUTLINE = re.compile(rb'"segmentation"\s*:\s*(?:\[\s*\[|\{)')
_ANNOTATION = re.compile(rb'"category_id"\s*:')
#: Label files that are looked at.
_MAX_FILES = 200


def likely_task(source: DataSource) -> Task:
    """DOTA is for rotated boxes; where every annotation has an outline, masks; else boxes.

    YOLO's with eight numbers behind every class are oriented boxes. Looks at the text alone, and
    refuses nothing: that is the readers' part.
    """
    if source.format == "dota":
        return "rotated"
    try:
        return _task_of_coco(source) if source.format == "coco" else _task_of_yolo(source)
    except OSError:
        # The reader will say which file cannot be read.
        return "detect"


def _task_of_coco(source: DataSource) -> Task:
    (file,) = source.annotations
    text = file.read_bytes()
    num_outlines = sum(1 for _ in _OUTLINE.finditer(text))
    num_annotations = sum(1 for _ in _ANNOTATION.finditer(text))
    return "instance" if 0 < num_annotations <= num_outlines else "detect"


def _task_of_yolo(source: DataSource) -> Task:
    lengths: set[int] = set()
    for folder in source.images:
        if folder.is_dir():
            labels = label_folder(folder)
            for image in islice(images_in(folder), _MAX_FILES):
                file = labels / image.parent.relative_to(folder) / f"{image.stem}.txt"
                lengths |= _lengths_of_lines(file)
    if not lengths or min(lengths) < 7:
        return "detect"
    return "rotated" if lengths == {9} else "instance"


def _lengths_of_lines(file: Path) -> set[int]:
    """How many words lines have."""
    if not file.is_file():
        return set()
    text = file.read_text("utf-8", errors="replace")
    return {len(line.split()) for line in text.splitlines() if line.strip()}
