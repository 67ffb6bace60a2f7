"""Average precision of everything that a network predicts: the metrics of an evaluation.

Boxes and masks by COCO's rules, rotated boxes by DOTA's. All values are fractions. Torch-free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.config import Task
from training.evaluation.coco_precision import coco_precision
from training.evaluation.comparison import Comparison, Kind
from training.evaluation.rotated_precision import rotated_precision

_PRIMARY: Mapping[Task, str] = {
    "detect": "box_ap",
    "instance": "mask_ap",
    "rotated": "rotated_ap50",
}


@dataclass(frozen=True)
class Metrics:
    """Fractions by name, over all classes and of every class that was to be found.

    `box_ap` (0.50:0.95), `box_ap50`, `box_ap75`, `box_ap_small`, `box_ap_medium`, `box_ap_large`,
    and average recalls `box_ar1`, `box_ar10`, `box_ar100` (with so many detections in an image),
    `box_ar_small`, `box_ar_medium`, `box_ar_large`; the same with `mask_` for instance models;
    `rotated_ap`, `rotated_ap50`, `rotated_ap75`, `rotated_ap50_voc07` and `rotated_ap_small`,
    `rotated_ap_medium`, `rotated_ap_large` for rotated ones.
    """

    values: dict[str, float]
    per_class: dict[str, dict[str, float]]
    num_images: int


def primary_metric(task: Task) -> str:
    """The metric that decides which weights are best; more is better."""
    return _PRIMARY[task]


def average_precision(comparison: Comparison, classes: Sequence[str]) -> Metrics:
    """The metrics of what was found, each the mean over the classes that have it.

    A class without an instance that is to be found is left out, whatever was found of it.

    Raises ValueError if there is nothing to be found at all.
    """
    measured = _figures(comparison)
    labels = sorted({label for figures in measured.values() for label in figures})
    per_class = {
        classes[label]: {
            f"{kind}_{metric}": value
            for kind, figures in measured.items()
            for metric, value in figures[label].items()
        }
        for label in labels
    }
    if not per_class:
        raise ValueError(
            "there is nothing to be found in the validation images: no instance, or only crowds "
            "and difficult ones; annotate them, or train without validation images"
        )
    names = dict.fromkeys(metric for values in per_class.values() for metric in values)
    means = {
        metric: float(np.mean([v[metric] for v in per_class.values() if metric in v]))
        for metric in names
    }
    return Metrics(means, per_class, comparison.num_images)


def _figures(comparison: Comparison) -> dict[Kind, dict[int, dict[str, float]]]:
    """What is measured, by kind, label and name."""
    measured: dict[Kind, dict[int, dict[str, float]]] = {
        kind: {label: coco_precision(each) for label, each in tables.items()}
        for kind, tables in comparison.coco.items()
    }
    if comparison.rotated is not None:
        of_labels = comparison.rotated.items()
        measured["rotated"] = {label: rotated_precision(each) for label, each in of_labels}
    return measured
