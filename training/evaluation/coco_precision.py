"""COCO's average precision of boxes and of masks, by pycocotools, from arrays.

One class at a time, because pycocotools wants a dictionary for every instance; the result is the
same, as classes do not meet in it.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import cocoeval
from pycocotools import mask as coco_mask

from training.evaluation.instances import Found, Ints, Truth

#: What is compared.
Kind = Literal["box", "mask"]

#: pycocotools' names of the kinds.
_IOU_TYPES: dict[Kind, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}

#: Detections of one class in one image that count, the best ones.
_MAX_DETECTIONS = 100

#: Ranges of areas, in the order in which pycocotools has them.
_AREAS = ("all", "small", "medium", "large")

_CATEGORY = 1

_Rows = NDArray[np.intp]

# pycocotools tells of every step. It is silenced in its own module, because redirecting stdout
# would swallow what other threads print.
setattr(cocoeval, "print", lambda *_: None)  # noqa: B010 - the module has no such name


def coco_precision(kind: Kind, truth: Truth, found: Found, label: int) -> dict[str, float]:
    """Average precisions of one class, as fractions: `ap` (0.50:0.95), `ap50`, `ap75`, and
    `ap_small`, `ap_medium`, `ap_large` where the class has instances of that size.

    Empty where the class has no instance that is to be found.
    """
    of_truth = np.flatnonzero(truth.labels == label)
    if truth.ignored[of_truth].all():
        return {}
    evaluation = _ArrayEvaluation(iouType=_IOU_TYPES[kind])
    evaluation.take(truth, of_truth, found, np.flatnonzero(found.labels == label))
    evaluation.evaluate()
    evaluation.accumulate()
    # [thresholds, recalls, classes, areas, limits]; -1 where there is nothing to be found.
    precision = evaluation.eval["precision"][:, :, 0, :, 0]
    values = {
        "ap": precision[:, :, 0],
        "ap50": precision[0, :, 0],
        "ap75": precision[5, :, 0],
        **{f"ap_{area}": precision[:, :, place] for place, area in enumerate(_AREAS) if place},
    }
    return {name: float(each.mean()) for name, each in values.items() if (each >= 0).all()}


class _ArrayEvaluation(cocoeval.COCOeval):
    """pycocotools' evaluation of rows that are given, without its data set class in between."""

    # Both by image and category, as pycocotools makes them.
    _gts: dict[tuple[int, int], list[dict[str, Any]]]
    _dts: dict[tuple[int, int], list[dict[str, Any]]]

    def take(self, truth: Truth, of_truth: _Rows, found: Found, of_found: _Rows) -> None:
        """Compare these rows: instances and detections of one class."""
        self.params.imgIds = np.union1d(truth.images[of_truth], found.images[of_found]).tolist()
        self.params.catIds = [_CATEGORY]
        self.params.maxDets = [_MAX_DETECTIONS]
        extents = _EXTENTS[self.params.iouType]
        sizes = truth.image_sizes
        for row, extent in zip(of_truth, extents(truth, of_truth, sizes), strict=True):
            self._gts[int(truth.images[row]), _CATEGORY].append(
                {
                    **extent,
                    "id": row + 1,  # a match with instance 0 would count as none
                    "area": truth.areas[row],
                    "iscrowd": int(truth.ignored[row]),
                    "ignore": int(truth.ignored[row]),
                }
            )
        for row, extent in zip(of_found, extents(found, of_found, sizes), strict=True):
            self._dts[int(found.images[row]), _CATEGORY].append(
                {"id": row + 1, "score": float(found.scores[row]), **extent}
            )

    def _prepare(self) -> None:
        """There is nothing to be read any more."""


def _boxes(instances: Truth | Found, rows: _Rows, _sizes: Ints) -> list[dict[str, Any]]:
    corners = instances.boxes[rows].astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    boxes = np.concatenate([corners[:, :2], sides], axis=1).tolist()
    areas = sides.prod(axis=1).tolist()
    return [{"bbox": box, "area": area} for box, area in zip(boxes, areas, strict=True)]


def _masks(instances: Truth | Found, rows: _Rows, sizes: Ints) -> list[dict[str, Any]]:
    assert instances.masks is not None
    masks: Any = [
        {"size": sizes[instances.images[row]].tolist(), "counts": instances.masks[row]}
        for row in rows
    ]
    # One by one: pycocotools with numpy 2 fails at more than 255 together.
    areas = [int(coco_mask.area(mask)) for mask in masks]
    return [{"segmentation": mask, "area": area} for mask, area in zip(masks, areas, strict=True)]


#: What pycocotools wants to know of an instance besides, by its name of the kind.
_EXTENTS = {"bbox": _boxes, "segm": _masks}
