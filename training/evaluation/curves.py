"""Precision against recall, with the score at which each recall is reached: what a report draws.

Boxes and masks are compared as COCO does, rotated boxes as DOTA does; all curves are given at
COCO's 101 recalls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.coco_comparison import COCO_THRESHOLDS
from training.evaluation.comparison import Comparison, Kind
from training.evaluation.rotated_matching import RankedDetections

#: COCO's recalls: 0, 0.01, ... 1.
RECALLS = np.linspace(0, 1, 101)

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
    comparison: Comparison, classes: Sequence[str], iou: float = 0.5
) -> dict[Kind, dict[str, Curve]]:
    """The curve of every class of which there is an instance to be found, by kind and name.

    `iou`: the overlap from which on (of rotated boxes: above which) a detection is right, one of
    COCO's 0.5, 0.55, ... 0.95; 0.5 and 0.75 are those of AP50 and AP75. With COCO's kinds the mean
    of a curve's precisions is the class's average precision at that overlap.

    Raises ValueError for any other overlap.
    """
    (places,) = np.nonzero(np.isclose(COCO_THRESHOLDS, iou))
    if not len(places):
        raise ValueError(f"the overlap of a curve is one of COCO's 0.5, 0.55, ... 0.95, got {iou}")
    (place,) = places.tolist()
    curves: dict[Kind, dict[str, Curve]] = {
        kind: {
            classes[label]: Curve(
                RECALLS, each.precision[place, :, 0], each.scores[place, :, 0], iou
            )
            for label, each in tables.items()
        }
        for kind, tables in comparison.coco.items()
    }
    if comparison.rotated is not None:
        of_labels = comparison.rotated.items()
        curves["rotated"] = {classes[label]: _rotated_curve(each, iou) for label, each in of_labels}
    return curves


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


def _rotated_curve(detections: RankedDetections, iou: float) -> Curve:
    curve = detections.curve(iou)
    assert curve is not None
    recall, precision = curve
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(recall, RECALLS, side="left")
    # One more stands for the recalls that no detection reaches.
    precisions = np.append(best_from_here, 0)[first]
    return Curve(RECALLS, precisions, np.append(detections.scores, 0.0)[first], iou)
