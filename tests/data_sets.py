"""Small data sets on disk, sound ones, that tests then spoil."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.config import Task
from training.data.formats.layouts import find_data
from training.data.indexing.detection_index import DetectionIndex, build_index

#: Width and height of the images below.
WIDTH, HEIGHT = 40, 30


def write_image(path: Path, *, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Path:
    """A picture of noise; the suffix tells the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def coco_content() -> dict[str, list[dict[str, Any]]]:
    """Two images, a cat and a dog as polygons, a crowd of cats as run lengths."""
    return {
        "images": [
            {"id": 10, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 4, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": 101,
                "image_id": 10,
                "category_id": 3,
                "bbox": [2.5, 3.0, 10.0, 8.0],
                "area": 40.0,
                "iscrowd": 0,
                "segmentation": [[2.5, 3.0, 12.5, 3.0, 2.5, 11.0]],
            },
            {
                "id": 102,
                "image_id": 4,
                "category_id": 7,
                "bbox": [20.0, 10.0, 12.0, 6.0],
                "area": 72.0,
                "iscrowd": 0,
                "segmentation": [[20.0, 10.0, 32.0, 10.0, 32.0, 16.0, 20.0, 16.0]],
            },
            {
                "id": 103,
                "image_id": 10,
                "category_id": 3,
                "bbox": [0.0, 0.0, 4.0, 30.0],
                "area": 120.0,
                "iscrowd": 1,
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 120, 1080]},
            },
        ],
    }


def write_coco(folder: Path, content: object, *, split: str = "train") -> Path:
    """`content` as COCO's JSON, and the images that a sound set has; gives the JSON file."""
    for name in ("a.png", "b.png"):
        write_image(folder / split / name)
    file = folder / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")
    return file


def write_dota(folder: Path, lines: Sequence[str], *, split: str = "train") -> Path:
    """One image `P1.png` with these lines of annotations; gives the label file."""
    write_image(folder / split / "images" / "P1.png")
    return write_lines(folder / split / "labelTxt" / "P1.txt", lines)


def write_yolo(
    folder: Path,
    lines: Sequence[str],
    *,
    names: Sequence[str] = ("cat", "dog"),
    split: str = "train",
) -> Path:
    """One image `a.png` with these lines of annotations, and `data.yaml`; gives the label file."""
    write_image(folder / "images" / split / "a.png")
    write_lines(folder / "data.yaml", [f"names: {json.dumps(list(names))}", "train: images/train"])
    return write_lines(folder / "labels" / split / "a.txt", lines)


def index_of(folder: Path, task: Task = "detect", **settings: Any) -> DetectionIndex:
    """The index of the set's training split, built beside it."""
    place = folder.parent / f"{folder.name}-{task}.index"
    return build_index(find_data(folder, task).train, task=task, folder=place, **settings)
