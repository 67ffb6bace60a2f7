"""A synthetic data set on disk, in any layout that training reads: shapes, as `scene` draws them.

Images are JPEG files, `train` and `val` never share a scene, and the folder appears as a whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from model.masks import InstanceMask, encode_rle
from model.rotated_iou import rotated_corners
from training.data.synthetic.outlines import SHAPE_NAMES
from training.data.synthetic.scenes import Scene, scene

#: COCO's JSON with polygons; DOTA's text; YOLO's text with boxes, polygons or four corners.
ShapesLayout = Literal["coco", "dota", "yolo", "yolo-polygons", "yolo-oriented"]

#: The scene of a seed, of a side in pixels.
Draw = Callable[[int, int], Scene]

#: Called with the number of scenes that are written, and of all.
Progress = Callable[[int, int], None]

#: Scenes of a split that no other split or seed has; hence the largest split.
_MAX_SPLIT = 10**6
_SPLITS = ("train", "val")
_JPEG_QUALITY = 95


def write_shapes(
    folder: Path,
    *,
    num_train: int,
    num_val: int,
    size: int = 640,
    seed: int = 0,
    layout: ShapesLayout = "coco",
    draw: Draw = scene,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Write a data set of images `size` x `size` into the new folder `folder`.

    Raises ValueError if the folder holds something already, or for numbers out of range.
    """
    if layout not in _WRITERS:
        raise ValueError(f"unknown layout '{layout}'; there are: {', '.join(_WRITERS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already; name a new folder")
    if not (0 <= num_train <= _MAX_SPLIT and 0 <= num_val <= _MAX_SPLIT and num_train + num_val):
        raise ValueError(f"a set has 1 to {_MAX_SPLIT} images, not {num_train} and {num_val}")
    if size < 32:
        raise ValueError(f"images have at least 32 pixels a side, got {size}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        done = 0
        for split, count in zip(_SPLITS, (num_train, num_val), strict=True):
            scenes = _counted(
                split_scenes(split, count, size=size, seed=seed, draw=draw),
                lambda written, before=done: progress(before + written, num_train + num_val),
            )
            _WRITERS[layout](part, split, scenes)
            done += count
        part.chmod(0o755)  # mkdtemp's folders are private
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def split_scenes(
    split: str, count: int, *, size: int, seed: int, draw: Draw = scene
) -> Iterator[Scene]:
    """The first scenes of a split, `train` or `val`, of the set with that seed."""
    first = (seed * len(_SPLITS) + _SPLITS.index(split)) * _MAX_SPLIT
    return (draw(first + index, size) for index in range(count))


def _counted(scenes: Iterator[Scene], written: Callable[[int], None]) -> Iterator[Scene]:
    """The same scenes; `written` hears of each when the next one is asked for."""
    for number, one in enumerate(scenes, start=1):
        yield one
        written(number)


def _write_coco(folder: Path, split: str, scenes: Iterator[Scene]) -> None:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, one in enumerate(scenes, start=1):
        name = f"{image_id:06d}.jpg"
        _write_image(folder / split / name, one.image)
        height, width = one.image.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for (x1, y1, x2, y2), mask, label in zip(
            one.boxes.tolist(), one.masks, one.labels.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": encode_rle(InstanceMask(0, 0, mask, width, height)),
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(SHAPE_NAMES)]
    contents = {"images": images, "annotations": annotations, "categories": categories}
    _write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(contents))


def _write_dota(folder: Path, split: str, scenes: Iterator[Scene]) -> None:
    for number, one in enumerate(scenes, start=1):
        name = f"{number:06d}"
        _write_image(folder / split / "images" / f"{name}.jpg", one.image)
        lines = [
            f"{_numbers(corners)} {SHAPE_NAMES[label]} 0"
            for corners, label in zip(rotated_corners(one.rotated_boxes), one.labels, strict=True)
        ]
        _write_text(folder / split / "labelTxt" / f"{name}.txt", _joined(lines))


def _write_yolo(
    folder: Path,
    split: str,
    scenes: Iterator[Scene],
    rows: Callable[[Scene], list[NDArray[np.floating]]],
) -> None:
    for number, one in enumerate(scenes, start=1):
        name = f"{number:06d}"
        _write_image(folder / "images" / split / f"{name}.jpg", one.image)
        side = one.image.shape[0]
        lines = [
            f"{label} {_numbers(row / side, decimals=6)}"
            for row, label in zip(rows(one), one.labels, strict=True)
        ]
        _write_text(folder / "labels" / split / f"{name}.txt", _joined(lines))
    names = [f"  {label}: {name}" for label, name in enumerate(SHAPE_NAMES)]
    head = ["path: .", "train: images/train", "val: images/val", "names:"]
    _write_text(folder / "data.yaml", _joined([*head, *names]))


def _centred(one: Scene) -> list[NDArray[np.floating]]:
    centres, sides = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2, one.boxes[:, 2:] - one.boxes[:, :2]
    return list(np.concatenate([centres, sides], axis=1))


_WRITERS: dict[str, Callable[[Path, str, Iterator[Scene]], None]] = {
    "coco": _write_coco,
    "dota": _write_dota,
    "yolo": lambda folder, split, scenes: _write_yolo(folder, split, scenes, _centred),
    "yolo-polygons": lambda folder, split, scenes: _write_yolo(
        folder, split, scenes, lambda one: list(one.polygons)
    ),
    "yolo-oriented": lambda folder, split, scenes: _write_yolo(
        folder, split, scenes, lambda one: list(rotated_corners(one.rotated_boxes))
    ),
}
assert set(_WRITERS) == set(get_args(ShapesLayout))


def _numbers(values: NDArray[np.floating], decimals: int = 3) -> str:
    return " ".join(f"{value:.{decimals}f}" for value in values.ravel().tolist())


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_image(path: Path, image_bgr: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert encoded
    path.write_bytes(data.tobytes())
