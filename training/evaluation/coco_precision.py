"""COCO's average precision and average recall of boxes and of masks."""

import numpy as np
from numpy.typing import NDArray

from training.evaluation.coco_comparison import DETECTION_LIMITS, CocoTables
from training.evaluation.instances import SIZES


def coco_precision(tables: CocoTables) -> dict[str, float]:
    """Figures of one class by name, as fractions.

    Average precision at most 100 detections: `ap` (0.50:0.95), `ap50`, `ap75`. Average recall, with
    the best 1, 10 and 100 detections of each image: `ar1`, `ar10`, `ar100`. By size, where the
    class has instances of that size: `ap_small`, `ap_medium`, `ap_large`, `ar_small`, ...
    """
    precision, recall = tables.precision, tables.recall
    values: dict[str, NDArray[np.float64]] = {
        "ap": precision[:, :, 0],
        "ap50": precision[0, :, 0],
        "ap75": precision[5, :, 0],
        **{f"ap_{size}": precision[:, :, place] for place, size in enumerate(SIZES, 1)},
        **{f"ar{limit}": recall[:, 0, place] for place, limit in enumerate(DETECTION_LIMITS)},
        **{f"ar_{size}": recall[:, place, -1] for place, size in enumerate(SIZES, 1)},
    }
    return {name: float(each.mean()) for name, each in values.items() if (each >= 0).all()}
