"""Data sets before and after a conversion, as their readers give them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.config import Task
from tests.data_sets import coco_content
from training.data.formats.checks import Findings
from training.data.formats.layouts import DataFormat, Split, find_data
from training.data.formats.readers import open_records
from training.data.formats.records import ImageRecord
from training.data.writing.conversion import Conversion, Converted, convert


@dataclass
class Read:
    """A set as its reader gives it."""

    classes: tuple[str, ...]
    images: list[ImageRecord]


def read(folder: Path, task: Task = "detect", split: Split = "train") -> Read:
    sources = find_data(folder, task)
    source = sources.train if split == "train" else sources.val
    assert source is not None
    findings = Findings(source.path)
    stream = open_records(source, findings, with_outlines=True)
    images = list(stream.images)
    findings.require_none()
    met = {instance.category for image in images for instance in image.instances}
    listed = stream.categories
    categories = listed(met) if callable(listed) else listed
    return Read(tuple(category.name for category in categories), images)


def converted(source: Path, to: DataFormat, task: Task | None = None) -> tuple[Path, Converted]:
    """The set in another format, beside the first one."""
    out = source.parent / f"{source.name}-{to}"
    return out, convert(source, out, Conversion(to=to, task=task))


def coco_with(*annotations: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    """Cats in the image a.png, with these segmentations and boxes."""
    content = coco_content()
    defaults = {"image_id": 10, "category_id": 3, "iscrowd": 0, "bbox": [1, 1, 5, 5], "area": 25}
    content["annotations"] = [
        defaults | {"id": number} | each for number, each in enumerate(annotations, 1)
    ]
    return content


def run_lengths_of(mask: np.ndarray) -> dict[str, object]:
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts}
