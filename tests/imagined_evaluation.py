"""Evaluations as reports show them, made of real images: detections are the truth, spoilt.

Run as a program, it writes a report on a data set that lies somewhere, to be looked at:

    python -m tests.imagined_evaluation COCO_OR_DOTA_FOLDER TASK report.html [RUN_FOLDER]
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from model.config import Task
from training.data.formats.layouts import find_data
from training.data.indexing.detection_index import build_index
from training.data.run_lengths import decoded
from training.evaluation.average_precision import average_precision
from training.evaluation.comparison import compare
from training.evaluation.evaluator import Evaluated, truth_of
from training.evaluation.instances import Found, Truth
from training.report.detection_report import write_report
from training.report.inputs import ReportInputs


def spoilt(truth: Truth, num_classes: int, rng: np.random.Generator) -> Found:
    """Detections of the truth: some dropped, misplaced, confused, twice, and some of nothing."""
    t = len(truth)
    kept = np.flatnonzero(rng.random(t) < 0.88)
    again = kept[rng.random(len(kept)) < 0.06]
    invented = rng.integers(0, t, t // 3) if t else np.zeros(0, np.int64)
    rows = np.concatenate([kept, again, invented]).astype(np.int64)
    is_invented = np.arange(len(rows)) >= len(kept) + len(again)

    labels = truth.labels[rows].copy()
    confused = rng.random(len(rows)) < 0.07
    labels[confused] = (labels[confused] + 1 + rng.integers(0, 2, confused.sum())) % num_classes
    images = truth.images[rows].copy()
    images[is_invented] = rng.integers(0, len(truth.image_sizes), is_invented.sum())
    scores = rng.beta(6, 2, len(rows))
    scores[is_invented | confused] = rng.beta(1.5, 3, (is_invented | confused).sum())
    misplaced = rng.random(len(rows)) < 0.1
    shifts = rng.normal(0, 0.03, (len(rows), 2)) + misplaced[:, None] * 0.3
    found = Found(
        images=images,
        labels=labels,
        scores=scores.astype(np.float32),
        boxes=_moved(truth.boxes[rows].astype(np.float32), shifts),
    )
    if truth.masks is not None:
        masks = [truth.masks[row] for row in rows]
        found = replace(found, masks=_moved_masks(truth, rows, masks, shifts, images))
    return Found.joined([found])


def _moved(boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    moved = boxes.copy()
    if boxes.shape[1] == 5:
        moved[:, :2] += shifts * boxes[:, 2:4].max(axis=1, keepdims=True)
        moved[:, 4] += shifts[:, 0]
        return moved
    by = shifts * (boxes[:, 2:] - boxes[:, :2])
    return moved + np.tile(by, 2).astype(np.float32)


def _moved_masks(
    truth: Truth, rows: np.ndarray, masks: list[bytes], shifts: np.ndarray, images: np.ndarray
) -> tuple[bytes, ...]:
    moved = []
    for row, mask, shift, image in zip(rows, masks, shifts, images, strict=True):
        x1, y1, x2, y2 = truth.boxes[row]
        size = truth.image_sizes[truth.images[row]]
        by = np.array([[1, 0, shift[0] * (x2 - x1)], [0, 1, shift[1] * (y2 - y1)]])
        height, width = truth.image_sizes[image].tolist()
        picture: Any = cv2.warpAffine(decoded(mask, *size.tolist()), by, (width, height))
        moved.append(coco_mask.encode(np.asfortranarray(picture))["counts"])
    return tuple(moved)


def evaluated_on(truth: Truth, found: Found, classes: tuple[str, ...]) -> Evaluated:
    """As an evaluator would give it."""
    task: Task = "rotated" if truth.boxes.shape[1] == 5 else "detect"
    task = task if truth.masks is None else "instance"
    comparison = compare(task, truth, found, len(classes))
    metrics = average_precision(comparison, classes)
    return Evaluated(metrics, comparison, truth, found, range(len(truth.image_sizes)))


FACTS: Mapping[str, str] = {
    "Model": "rtmdet-nano-shapes",
    "Weights": "runs/rtmdet-nano-shapes/best.safetensors (sha256 3f2a91c0)",
    "Runtime": "OpenVINO 2026.1, CPU, bf16",
    "Post-processing": "published: score 0.001, IoU 0.65, 300 detections",
    "Data": "shapes/coco val, 500 images",
    "Input": "320 x 320",
    "Date": "2026-11-20 16:40 UTC",
}


def main() -> None:
    folder, name, out, *run_folder = sys.argv[1:]
    task = next(each for each in get_args(Task) if each == name)
    source = find_data(Path(folder), task).val
    assert source is not None
    with tempfile.TemporaryDirectory() as scratch:
        index = build_index(
            source, task=task, folder=Path(scratch) / "index", keep_images_without_boxes=True
        )
        truth = truth_of(index, range(len(index)))
        found = spoilt(truth, len(index.classes), np.random.default_rng(0))
        write_report(
            Path(out),
            ReportInputs(
                evaluated=evaluated_on(truth, found, index.classes),
                images=index,
                classes=index.classes,
                title=f"Evaluation of rtmdet-nano-shapes ({task})",
                facts=FACTS,
                run_folder=Path(*run_folder) if run_folder else None,
            ),
        )


if __name__ == "__main__":
    main()
