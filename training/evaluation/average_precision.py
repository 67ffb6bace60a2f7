"""Average precision of everything that a network predicts: the metrics of an evaluation.

Boxes and masks by COCO's rules, rotated boxes by DOTA's. All values are fractions. Torch-free.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.config import Task
from training.evaluation.coco_precision import coco_precision
from training.evaluation.instances import Found, Truth
from training.evaluation.rotated_precision import rotated_precision

#: What is measured for a task; each name leads its metrics' names.
_MEASURES: Mapping[Task, Mapping[str, Callable[[Truth, Found, int], dict[str, float]]]] = {
    "detect": {"box": lambda *of_class: coco_precision("box", *of_class)},
    "instance": {
        "box": lambda *of_class: coco_precision("box", *of_class),
        "mask": lambda *of_class: coco_precision("mask", *of_class),
    },
    "rotated": {"rotated": rotated_precision},
}

_PRIMARY: Mapping[Task, str] = {
    "detect": "box_ap",
    "instance": "mask_ap",
    "rotated": "rotated_ap50",
}


@dataclass(frozen=True)
class Metrics:
    """Fractions by name, over all classes and of every class that was to be found.

    `box_ap` (0.50:0.95), `box_ap50`, `box_ap75`, `box_ap_small`, `box_ap_medium`, `box_ap_large`;
    the same with `mask_` for instance models; `rotated_ap`, `rotated_ap50`, `rotated_ap75` and
    `rotated_ap50_voc07` for rotated ones.
    """

    values: dict[str, float]
    per_class: dict[str, dict[str, float]]
    num_images: int


def primary_metric(task: Task) -> str:
    """The metric that decides which weights are best; more is better."""
    return _PRIMARY[task]


def average_precision(task: Task, truth: Truth, found: Found, classes: Sequence[str]) -> Metrics:
    """The metrics of what was found, each the mean over the classes that have it.

    A class without an instance that is to be found is left out, whatever was found of it.

    Raises ValueError if there is nothing to be found at all.
    """
    per_class: dict[str, dict[str, float]] = {}
    for label, name in enumerate(classes):
        values = {
            f"{measure}_{metric}": value
            for measure, of_class in _MEASURES[task].items()
            for metric, value in of_class(truth, found, label).items()
        }
        if values:
            per_class[name] = values
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
    return Metrics(means, per_class, len(truth.image_sizes))
