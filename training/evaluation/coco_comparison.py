"""COCO's comparison of detections with what is annotated, by faster-coco-eval, from packed arrays.

faster-coco-eval wants a dictionary for every instance, so one class is compared after the other, in
the images where it occurs: the tables are the same, as classes do not meet in them, and memory is
bounded by the largest class.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from training.evaluation.instances import SIZES, Found, Ints, Truth

#: What is compared.
CocoKind = Literal["box", "mask"]

#: Detections of one class in one image that count, the best ones; the last is for precision.
DETECTION_LIMITS: tuple[int, ...] = (1, 10, 100)

#: Overlaps from which on a detection is right: those that COCO's mean is taken over.
COCO_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())

#: The package's names of the kinds.
_IOU_TYPES: dict[CocoKind, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}

_CATEGORY = 1

#: With numpy 2 pycocotools can count no more masks at once than a byte can.
_MASKS_AT_ONCE = 255

_Rows = NDArray[np.intp]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CocoTables:
    """What COCO's figures of one class are means of, at the t COCO_THRESHOLDS and of s sizes (all
    of them, then SIZES).

    `precision` [t, 101, s] at recalls 0, 0.01, ... 1, 0 where a recall is not reached, and `scores`
    [t, 101, s] of the detections that reach them; `recall` [t, s, 3] with each of
    DETECTION_LIMITS. All are -1 for a size of which there is nothing to be found.
    """

    precision: _Floats
    scores: _Floats
    recall: _Floats


def coco_tables(
    kind: CocoKind, truth: Truth, found: Found, num_classes: int
) -> dict[int, CocoTables]:
    """The tables of every label of which there is an instance to be found."""
    of_truth = _rows_by_label(truth.labels, num_classes)
    of_found = _rows_by_label(found.labels, num_classes)
    return {
        label: _tables(kind, truth, of_truth[label], found, of_found[label])
        for label in range(num_classes)
        if not truth.ignored[of_truth[label]].all()
    }


def _rows_by_label(labels: Ints, num_classes: int) -> list[_Rows]:
    """The rows of each label, in their order."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(num_classes + 1)).tolist()
    return [order[start:stop] for start, stop in pairwise(starts)]


def _tables(
    kind: CocoKind, truth: Truth, of_truth: _Rows, found: Found, of_found: _Rows
) -> CocoTables:
    """From these rows: instances and detections of one class."""
    images = np.union1d(truth.images[of_truth], found.images[of_found])
    evaluation = COCOeval_faster(
        _data_set(truth, images, _instances(kind, truth, of_truth)),
        _data_set(truth, images, _detections(kind, truth, found, of_found)),
        iouType=_IOU_TYPES[kind],
        print_function=_say_nothing,
    )
    evaluation.params.iouThrs = np.array(COCO_THRESHOLDS)
    evaluation.params.maxDets = list(DETECTION_LIMITS)
    evaluation.params.areaRng = [[0, 1e10], *(list(size) for size in SIZES.values())]
    evaluation.evaluate()
    evaluation.accumulate()
    # [overlaps, recalls, classes, sizes, limits]; that of recall has no recalls.
    tables: dict[str, Any] = evaluation.eval
    return CocoTables(
        precision=tables["precision"][:, :, 0, :, -1],
        scores=tables["scores"][:, :, 0, :, -1],
        recall=tables["recall"][:, 0],
    )


def _data_set(truth: Truth, images: Ints, annotations: list[dict[str, Any]]) -> COCO:
    heights, widths = truth.image_sizes[images].T.tolist()
    return COCO(
        {
            "images": [
                {"id": image, "height": height, "width": width}
                for image, height, width in zip(images.tolist(), heights, widths, strict=True)
            ],
            "annotations": annotations,
            "categories": [{"id": _CATEGORY}],
        },
        print_function=_say_nothing,
    )


def _instances(kind: CocoKind, truth: Truth, rows: _Rows) -> list[dict[str, Any]]:
    records = _records(kind, truth, rows, truth.image_sizes)
    areas, ignored = truth.areas[rows].tolist(), truth.ignored[rows].tolist()
    for record, area, is_ignored in zip(records, areas, ignored, strict=True):
        record |= {"area": area, "iscrowd": int(is_ignored)}
    return records


def _detections(kind: CocoKind, truth: Truth, found: Found, rows: _Rows) -> list[dict[str, Any]]:
    records = _records(kind, found, rows, truth.image_sizes)
    for record, score in zip(records, found.scores[rows].tolist(), strict=True):
        record["score"] = score
    return records


def _records(
    kind: CocoKind, instances: Truth | Found, rows: _Rows, image_sizes: Ints
) -> list[dict[str, Any]]:
    """What the package wants to know of both, with areas of what is compared."""
    extents = _boxes(instances, rows) if kind == "box" else _masks(instances, rows, image_sizes)
    images = instances.images[rows].tolist()
    # Numbered from 1, for a match with number 0 would count as none.
    return [
        {"id": number, "image_id": image, "category_id": _CATEGORY, **extent}
        for number, (image, extent) in enumerate(zip(images, extents, strict=True), 1)
    ]


def _boxes(instances: Truth | Found, rows: _Rows) -> list[dict[str, Any]]:
    corners = instances.boxes[rows].astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    boxes = np.concatenate([corners[:, :2], sides], axis=1).tolist()
    areas = sides.prod(axis=1).tolist()
    return [{"bbox": box, "area": area} for box, area in zip(boxes, areas, strict=True)]


def _masks(instances: Truth | Found, rows: _Rows, image_sizes: Ints) -> list[dict[str, Any]]:
    assert instances.masks is not None
    sizes = image_sizes[instances.images[rows]].tolist()
    masks: list[Any] = [
        {"size": size, "counts": instances.masks[row]}
        for size, row in zip(sizes, rows.tolist(), strict=True)
    ]
    return [
        {"segmentation": mask, "area": area}
        for mask, area in zip(masks, mask_areas(masks), strict=True)
    ]


def mask_areas(masks: list[Any]) -> list[int]:
    """Pixels of each mask, by pycocotools, which counts five times as fast as faster-coco-eval."""
    # Its stub knows a single mask alone.
    count: Any = coco_mask.area
    return [
        area
        for start in range(0, len(masks), _MASKS_AT_ONCE)
        for area in count(masks[start : start + _MASKS_AT_ONCE]).tolist()
    ]


def _say_nothing(*_: object) -> None:
    """Instead of its reports of progress."""
