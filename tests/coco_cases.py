"""Random data sets and detections as COCO's files have them, and what pycocotools makes of them."""

import contextlib
import io
import json
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.evaluation.instances import Found, Truth

#: Of pycocotools' twelve figures, in their order.
STATISTICS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
IOU_TYPES = {"box": "bbox", "mask": "segm"}


@dataclass(frozen=True)
class CocoCase:
    """`data_set` is what an annotation file holds, `results` what a file of detections holds.

    Every result has a box and a mask.
    """

    data_set: dict
    results: list[dict]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(category["name"] for category in self.data_set["categories"])

    def packed(self) -> tuple[Truth, Found]:
        annotations, results = self.data_set["annotations"], self.results
        images = [image["id"] for image in self.data_set["images"]]
        labels = [category["id"] for category in self.data_set["categories"]]

        def columns(records: list[dict]) -> dict:
            xywh = np.array([each["bbox"] for each in records], np.float32).reshape(-1, 4)
            return {
                "images": np.array([images.index(each["image_id"]) for each in records], np.int64),
                "labels": np.array([labels.index(r["category_id"]) for r in records], np.int64),
                "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
                "masks": tuple(each["segmentation"]["counts"].encode() for each in records),
            }

        truth = Truth(
            image_sizes=np.array([(i["height"], i["width"]) for i in self.data_set["images"]]),
            areas=np.array([each["area"] for each in annotations], np.float64),
            ignored=np.array([each["iscrowd"] for each in annotations], bool),
            **columns(annotations),
        )
        return truth, Found(
            scores=np.array([each["score"] for each in results], np.float32), **columns(results)
        )

    def by_pycocotools(self, kind: str) -> COCOeval:
        """Its evaluation, finished: `stats` in the order of STATISTICS, and its tables."""
        place = {"box": "bbox", "mask": "segmentation"}[kind]
        named = ("image_id", "category_id", "score", place)
        results = [{name: each[name] for name in named} for each in self.results]
        with contextlib.redirect_stdout(io.StringIO()):
            data = COCO()
            data.dataset = json.loads(json.dumps(self.data_set))
            data.createIndex()
            detections = data.loadRes(json.loads(json.dumps(results)))
            evaluation = COCOeval(data, detections, IOU_TYPES[kind])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation


def coco_case(
    seed: int,
    *,
    num_images: int = 24,
    num_classes: int = 80,
    num_labelled: int = 70,
    instances_per_image: int = 8,
    detections_per_image: int = 24,
) -> CocoCase:
    """Images of several sizes, every sixth without anything, one in six with detections alone, one
    in six with instances alone. Crowds; scores that are often equal.

    Only the first `num_labelled` classes have instances; of the first of them all are crowds.
    """
    random = np.random.default_rng(seed)
    images = [
        {"id": 3 * place + 7, "height": int(height), "width": int(width)}
        for place, (height, width) in enumerate(random.integers(128, 192, (num_images, 2)))
    ]
    annotations, results = [], []
    for place, image in enumerate(images):
        instances = [
            _record(image, int(random.integers(num_labelled)), _box(random, image), random)
            for _ in range(instances_per_image)
        ]
        if place % 6 not in (0, 1):
            annotations += instances
        if place % 6 not in (0, 2):
            results += [
                _detection(image, instances, num_classes, random)
                for _ in range(detections_per_image)
            ]
    for number, each in enumerate(annotations, 1):
        area = float(coco_mask.area(each["segmentation"])) * random.uniform(0.8, 1)
        crowd = int(random.random() < 0.12 or (each["category_id"] == 1 and num_labelled > 2))
        each |= {"id": number, "area": area, "iscrowd": crowd}
    categories = [{"id": label + 1, "name": f"class {label}"} for label in range(num_classes)]
    data_set = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    return CocoCase(data_set, results)


def _detection(image: dict, instances: list[dict], num_classes: int, random) -> dict:
    """More or less off an instance, now and then of another class, or of nothing."""
    near = instances[random.integers(len(instances))]
    x, y, width, height = near["bbox"]
    if random.random() < 0.8:
        corners = np.array([x, y, x + width, y + height]) + random.normal(0, 0.06, 4) * (
            [width, height] * 2
        )
        box = _inside(corners, image)
    else:
        box = _box(random, image)
    other = int(random.integers(num_classes))
    label = near["category_id"] - 1 if random.random() < 0.85 else other
    # As float32, as detections have them, and rounded so that many are equal.
    score = float(np.float32(round(random.random(), 2)))
    return {**_record(image, label, box, random), "score": score}


def _record(image: dict, label: int, box: list[float], random) -> dict:
    return {
        "image_id": image["id"],
        "category_id": label + 1,
        "bbox": box,
        "segmentation": _mask(image, box, random),
    }


def _box(random, image: dict) -> list[float]:
    size = np.array([image["width"], image["height"]])
    sides = np.minimum(np.exp(random.uniform(1.5, 5.2, 2)), size - 1)
    corner = random.random(2) * (size - sides)
    return _inside(np.concatenate([corner, corner + sides]), image)


def _inside(corners: np.ndarray, image: dict) -> list[float]:
    """xywh, in eighths of a pixel so that float32 has no rounding; at least two pixels a side."""
    x1, y1, x2, y2 = np.round(corners * 8) / 8
    x1, y1 = min(max(x1, 0), image["width"] - 2), min(max(y1, 0), image["height"] - 2)
    x2, y2 = min(max(x2, x1 + 2), image["width"]), min(max(y2, y1 + 2), image["height"])
    return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def _mask(image: dict, box: list[float], random) -> dict:
    """An ellipse in the box, with a row missing."""
    x, y, width, height = box
    rows, columns = np.ogrid[: image["height"], : image["width"]]
    across = (columns + 0.5 - x - width / 2) / (width / 2)
    down = (rows + 0.5 - y - height / 2) / (height / 2)
    picture = np.asfortranarray(across**2 + down**2 <= 1, np.uint8)
    picture[int(random.integers(y, y + height))] = 0
    mask = coco_mask.encode(picture)
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}
