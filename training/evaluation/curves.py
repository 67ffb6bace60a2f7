"""Precision against recall, with the score at which each recall is reached: what a report draws.

Boxes and masks are compared as COCO does, rotated boxes as DOTA does; all curves are given at
COCO's 101 recalls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.config import Task
from training.evaluation.coco_comparison import Kind as CocoKind
from training.evaluation.coco_comparison import compared
from training.evaluation.instances import Found, Truth
from training.evaluation.rotated_matching import ranked_detections

#: What is compared.
Kind = Literal["box", "mask", "rotated"]

#: COCO's recalls: 0, 0.01, ... 1.
RECALLS = np.linspace(0, 1, 101)

_COCO_KINDS: Mapping[Task, tuple[CocoKind, ...]] = {
    "detect": ("box",),
    "instance": ("box", "mask"),
    "rotated": (),
}

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision at each of the RECALLS, where an overlap of `iou` makes a detection right.

    `recalls`, `precisions` and `scores` are float64 [101]. A precision is the best one from its
    recall on; 0 where the recall is not reached, as is the score. `scores` say which threshold gets
    so far, and are None over several classes, each of which gets there at another score.
    """

    recalls: _Floats
    precisions: _Floats
    scores: _Floats | None
    iou: float


def precision_recall(
    task: Task, truth: Truth, found: Found, classes: Sequence[str], iou: float = 0.5
) -> dict[Kind, dict[str, Curve]]:
    """The curve of every class of which there is an instance to be found, by kind and name.

    `iou`: the overlap from which on (of rotated boxes: above which) a detection is right, between 0
    and 1; 0.5 and 0.75 are those of AP50 and AP75. With COCO's kinds the mean of a curve's
    precisions is the class's average precision at that overlap.

    Raises ValueError for an overlap out of range.
    """
    return precision_recall_at(task, truth, found, classes, [iou])[iou]


def precision_recall_at(
    task: Task, truth: Truth, found: Found, classes: Sequence[str], ious: Sequence[float]
) -> dict[float, dict[Kind, dict[str, Curve]]]:
    """The same at several overlaps, for which everything is compared only once."""
    for iou in ious:
        if not 0 < iou < 1:
            raise ValueError(f"the overlap of a curve must lie between 0 and 1, got {iou}")
    by_kind: dict[Kind, dict[float, dict[str, Curve]]] = {
        kind: _coco_curves(kind, truth, found, classes, ious) for kind in _COCO_KINDS[task]
    }
    if task == "rotated":
        by_kind["rotated"] = _rotated_curves(truth, found, classes, ious)
    return {iou: {kind: curves[iou] for kind, curves in by_kind.items()} for iou in ious}


def over_all_classes(curves: Mapping[str, Curve]) -> Curve:
    """The mean of the classes' precisions at each recall, as COCO's average over classes is taken.

    Raises ValueError where there is no curve, or where they are of different overlaps.
    """
    overlaps = {curve.iou for curve in curves.values()}
    if len(overlaps) != 1:
        raise ValueError(
            f"a mean is taken of curves with one overlap, got {sorted(overlaps) or 'no curve'}"
        )
    precisions = np.mean([curve.precisions for curve in curves.values()], axis=0)
    return Curve(RECALLS, precisions, None, overlaps.pop())


def _coco_curves(
    kind: CocoKind, truth: Truth, found: Found, classes: Sequence[str], ious: Sequence[float]
) -> dict[float, dict[str, Curve]]:
    tables = compared(kind, truth, found, len(classes), ious)
    return {
        iou: {
            classes[label]: Curve(
                RECALLS, each.precision[place, :, 0], each.scores[place, :, 0], iou
            )
            for label, each in tables.items()
        }
        for place, iou in enumerate(ious)
    }


def _rotated_curves(
    truth: Truth, found: Found, classes: Sequence[str], ious: Sequence[float]
) -> dict[float, dict[str, Curve]]:
    curves: dict[float, dict[str, Curve]] = {iou: {} for iou in ious}
    for label, name in enumerate(classes):
        detections = ranked_detections(truth, found, label)
        for iou in ious:
            curve = detections.curve(iou)
            if curve is not None:
                curves[iou][name] = _at_recalls(*curve, detections.scores, iou)
    return curves


def _at_recalls(
    recall: _Floats, precision: _Floats, scores: NDArray[np.float32], iou: float
) -> Curve:
    """From recall, precision and score of each detection [m], best first."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(recall, RECALLS, side="left")
    # One more stands for the recalls that no detection reaches.
    return Curve(RECALLS, np.append(best_from_here, 0)[first], np.append(scores, 0.0)[first], iou)
