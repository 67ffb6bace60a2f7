"""COCO's figures beside pycocotools, from the same detections in one run.

    python -m benchmarks.evaluation --images 5000 --classes 80

Prints for boxes and for masks the seconds of both, ours from packed arrays and theirs from what
json.load gives of the files (the reading of which is not counted), and the largest difference
between the twelve figures of both. Exits with 1 if they are not equal to five digits.
"""

import argparse
import contextlib
import io
import os
import platform
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.evaluation.coco_comparison import CocoKind, coco_tables
from training.evaluation.coco_precision import coco_precision
from training.evaluation.instances import Found, Truth

WIDTH, HEIGHT = 640, 480
#: As many as COCO's validation images have on average.
INSTANCES_PER_IMAGE = 7
NUM_CORNERS = 24
EQUAL = 5e-6
KINDS: dict[CocoKind, tuple[str, str]] = {"box": ("bbox", "bbox"), "mask": ("segm", "segmentation")}
#: Ours of pycocotools' twelve figures, in their order.
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)

RANDOM = np.random.default_rng(40)

_Floats = NDArray[np.float64]


def random_boxes(count: int) -> _Floats:
    """Boxes xyxy, as many with sides of 8 to 32 pixels as with 32 to 128; up to 400."""
    sides = np.minimum(np.exp(RANDOM.uniform(2, 6, (count, 2))), [WIDTH - 1, HEIGHT - 1])
    corners = RANDOM.random((count, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def masks_in(boxes: _Floats) -> tuple[bytes, ...]:
    """Ragged ellipses in boxes."""
    angles = np.linspace(0, 2 * np.pi, NUM_CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    masks = []
    for box in boxes:
        reach = RANDOM.uniform(0.7, 1, (NUM_CORNERS, 1))
        corners = (box[:2] + box[2:]) / 2 + circle * reach * (box[2:] - box[:2]) / 2
        polygon: Any = [corners.ravel().tolist()]
        (mask,) = coco_mask.frPyObjects(polygon, HEIGHT, WIDTH)
        masks.append(mask["counts"])
    return tuple(masks)


def random_set(num_images: int, num_classes: int, detections_per_image: int) -> tuple[Truth, Found]:
    """Half of the detections lie more or less on an instance, most of these with its class."""
    count = num_images * INSTANCES_PER_IMAGE
    boxes = random_boxes(count)
    truth = Truth(
        image_sizes=np.full((num_images, 2), (HEIGHT, WIDTH)),
        images=np.repeat(np.arange(num_images), INSTANCES_PER_IMAGE),
        labels=RANDOM.integers(0, num_classes, count),
        boxes=boxes.astype(np.float32),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        ignored=RANDOM.random(count) < 0.02,
        masks=masks_in(boxes),
    )
    count = num_images * detections_per_image
    images = np.repeat(np.arange(num_images), detections_per_image)
    near = images * INSTANCES_PER_IMAGE + RANDOM.integers(0, INSTANCES_PER_IMAGE, count)
    sides = np.tile(boxes[near, 2:] - boxes[near, :2], 2)
    moved = boxes[near] + RANDOM.normal(0, 0.06, (count, 4)) * sides
    moved = np.where(RANDOM.random((count, 1)) < 0.5, moved, random_boxes(count))
    moved = np.clip(moved, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    moved[:, :2] = np.minimum(moved[:, :2], moved[:, 2:] - 1)
    others = RANDOM.integers(0, num_classes, count)
    found = Found(
        images=images,
        labels=np.where(RANDOM.random(count) < 0.5, truth.labels[near], others),
        scores=RANDOM.random(count, np.float32),
        boxes=moved.astype(np.float32),
        masks=masks_in(moved),
    )
    return truth, found


def records_of(instances: Truth | Found) -> list[dict[str, Any]]:
    """As in COCO's files."""
    corners = instances.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    return [
        {
            "image_id": image + 1,
            "category_id": label + 1,
            "bbox": box,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts.decode("ascii")},
        }
        for image, label, box, counts in zip(
            instances.images.tolist(),
            instances.labels.tolist(),
            boxes,
            instances.masks or (),
            strict=True,
        )
    ]


def files_of(
    kind: CocoKind, truth: Truth, found: Found, num_classes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the file of annotations holds, and the file of detections."""
    annotations = records_of(truth)
    for row, each in enumerate(annotations):
        crowd = int(truth.ignored[row])
        each |= {"id": row + 1, "area": float(truth.areas[row]), "iscrowd": crowd}
    named = ("image_id", "category_id", KINDS[kind][1])
    results = [{name: each[name] for name in named} for each in records_of(found)]
    for each, score in zip(results, found.scores.tolist(), strict=True):
        each["score"] = score
    data_set = {
        "images": [
            {"id": image + 1, "height": HEIGHT, "width": WIDTH}
            for image in range(len(truth.image_sizes))
        ],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(num_classes)],
        "info": {},
    }
    return data_set, results


def by_pycocotools(
    kind: CocoKind, data_set: dict[str, Any], results: list[dict[str, Any]]
) -> _Floats:
    """The twelve figures."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = data_set
        data.createIndex()
        evaluation: Any = COCOeval(data, data.loadRes(results), KINDS[kind][0])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def by_ours(kind: CocoKind, truth: Truth, found: Found, num_classes: int) -> _Floats:
    """The same."""
    tables = coco_tables(kind, truth, found, num_classes)
    of_classes = [coco_precision(each) for each in tables.values()]
    return np.array(
        [np.mean([each[name] for each in of_classes if name in each] or -1) for name in FIGURES]
    )


def compare(kind: CocoKind, truth: Truth, found: Found, num_classes: int) -> bool:
    """Print a line; whether the figures are equal."""
    begun = time.perf_counter()
    ours = by_ours(kind, truth, found, num_classes)
    middle = time.perf_counter()
    files = files_of(kind, truth, found, num_classes)
    parsed = time.perf_counter()
    theirs = by_pycocotools(kind, *files)
    seconds, their_seconds = middle - begun, time.perf_counter() - parsed
    difference = float(np.abs(ours - theirs).max())
    verdict = "equal to five digits" if difference < EQUAL else "NOT EQUAL"
    print(
        f"{kind:6}{seconds:9.2f} s{their_seconds:13.2f} s{their_seconds / seconds:8.1f}x"
        f"   AP {ours[0]:.5f} and {theirs[0]:.5f}; 12 figures {verdict} (at most {difference:.0e})",
        flush=True,
    )
    return difference < EQUAL


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="in each image")
    options = parser.parse_args()
    truth, found = random_set(options.images, options.classes, options.detections)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print(
        f"{options.images} images, {options.classes} classes, {len(truth)} instances, "
        f"{len(found)} detections\n{'':6}{'ours':>11}{'pycocotools':>15}{'ratio':>9}"
    )
    equal = [compare(kind, truth, found, options.classes) for kind in KINDS]
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
