"""Rotated boxes in three images, and what was found there, row by row."""

import numpy as np

from training.evaluation.average_precision import average_precision
from training.evaluation.comparison import compare
from training.evaluation.instances import Found, Truth


def rotated_set(instances, detections) -> tuple[Truth, Found]:
    """From rows (image, box, difficult) and (image, box, score), all of one class."""
    truth = Truth(
        image_sizes=np.full((3, 2), 160),
        images=np.array([row[0] for row in instances], np.int64),
        labels=np.zeros(len(instances), np.int64),
        boxes=np.array([row[1] for row in instances], np.float64).reshape(-1, 5),
        areas=np.array([row[1][2] * row[1][3] for row in instances], np.float64),
        ignored=np.array([row[2] for row in instances], bool),
    )
    found = Found(
        images=np.array([row[0] for row in detections], np.int64),
        labels=np.zeros(len(detections), np.int64),
        scores=np.array([row[2] for row in detections], np.float32),
        boxes=np.array([row[1] for row in detections], np.float32).reshape(-1, 5),
    )
    return truth, found


def rotated_metrics(instances, detections) -> dict[str, float]:
    comparison = compare("rotated", *rotated_set(instances, detections), 1)
    return average_precision(comparison, ("ship",)).values


BOX = (50, 50, 40, 20, 0.3)
ELSEWHERE = (120, 120, 40, 20, 0.3)
#: Overlaps BOX by 3/5.
OFF_BY_A_QUARTER = (50 + 10 * np.cos(0.3), 50 + 10 * np.sin(0.3), 40, 20, 0.3)
