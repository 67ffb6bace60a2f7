"""Average precision of rotated boxes, as VOC and DOTA have it, at COCO's overlaps and sizes too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluation.instances import SIZES
from training.evaluation.rotated_matching import RankedDetections

#: Overlaps over which COCO's mean is taken.
_THRESHOLDS: Sequence[float] = (np.arange(50, 100, 5) / 100).tolist()

_Floats = NDArray[np.float64]


def rotated_precision(detections: RankedDetections) -> dict[str, float]:
    """Average precisions of one class by name, as fractions; it has instances to be found.

    `ap` (0.50:0.95), `ap50`, `ap75` by the area under the curve, and `ap50_voc07` at eleven
    recalls, as DOTA's figures are. `ap_small`, `ap_medium`, `ap_large` (0.50:0.95), where the class
    has instances of that size, are ours: DOTA has no figures by size. Sizes are COCO's, and so is
    what becomes of the rest: instances of other sizes are difficult ones, and a detection of
    another size is not wrong.
    """
    curve = detections.curve(_THRESHOLDS[0])
    assert curve is not None
    areas = _areas(detections)
    values = {
        "ap": float(np.mean(areas)),
        "ap50": areas[0],
        "ap75": areas[5],
        "ap50_voc07": _eleven_points(*curve),
    }
    of_sizes = {name: _areas(detections, size) for name, size in SIZES.items()}
    return values | {f"ap_{name}": float(np.mean(each)) for name, each in of_sizes.items() if each}


def _areas(detections: RankedDetections, size: tuple[float, float] | None = None) -> list[float]:
    """The areas under the curves of all thresholds; none where there is nothing to be found."""
    curves = (detections.curve(threshold, size) for threshold in _THRESHOLDS)
    return [_area_under(*curve) for curve in curves if curve is not None]


def _area_under(recall: _Floats, precision: _Floats) -> float:
    """The area under the curve whose precision at a recall is the best one from there on."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * best_from_here).sum())


def _eleven_points(recall: _Floats, precision: _Floats) -> float:
    """The mean of the best precisions from recalls 0, 0.1, ... 1 on (VOC 2007).

    The recalls are rounded as in the kits of VOC and DOTA: three of them lie a little above.
    """
    recalls = np.arange(0.0, 1.1, 0.1)
    return float(np.mean([precision[recall >= least].max(initial=0) for least in recalls]))
