"""Post-processing on one core, beside other ways to do the same.

    OMP_NUM_THREADS=1 python -m benchmarks.postprocess

Prints the best and the median time of each, in milliseconds, and whether the results agree.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import shapely
from pycocotools import mask as coco_mask

from model.mask_assembly import assemble_masks
from model.masks import InstanceMask, dense, encode_png, encode_rle, polygons
from model.nms import nms, rotated_nms
from model.postprocess import SERVING_SETTINGS, Candidates, postprocess
from model.preprocess import Letterbox, letterbox_of
from model.rotated_iou import rotated_corners

RANDOM = np.random.default_rng(20)
REPEATS = 15


def measure(function: Callable[[], object], repeats: int = REPEATS) -> str:
    """Best and median milliseconds of a call."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append((time.perf_counter() - start) * 1e3)
    return f"{min(durations):9.2f} {statistics.median(durations):9.2f}"


def row(name: str, times: str, remark: str = "") -> None:
    """One line of the table."""
    print(f"{name:<58} {times}   {remark}")


def log_uniform(low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    """Sizes, as many between 30 and 60 as between 60 and 120."""
    return np.exp(RANDOM.uniform(np.log(low), np.log(high), shape))


def greedy_by_shapely(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Indices of the rotated boxes that stay: the oracle."""
    shapes = shapely.polygons(rotated_corners(boxes))
    areas, tree = shapely.area(shapes), shapely.STRtree(shapes)
    gone = np.zeros(len(boxes), bool)
    kept = []
    for box in np.argsort(-scores, kind="stable").tolist():
        if not gone[box]:
            kept.append(box)
            near = tree.query(shapes[box])
            common = shapely.area(shapely.intersection(shapes[box], shapes[near]))
            gone[near[common > threshold * (areas[box] + areas[near] - common)]] = True
    return kept


def compare_rotated_suppression(spread: float) -> None:
    """2000 rotated boxes of one class, sides 12 to 70, threshold 0.1."""
    columns = [
        RANDOM.uniform(0, spread, (2000, 2)),
        log_uniform(12, 70, (2000, 2)),
        RANDOM.uniform(-np.pi / 2, np.pi / 2, 2000),
    ]
    boxes, scores = np.column_stack(columns).astype(np.float32), RANDOM.random(2000, np.float32)
    labels = np.zeros(2000, np.int32)
    rectangles = [((x, y), (w, h), np.degrees(a)) for x, y, w, h, a in boxes.tolist()]

    def by_cv2() -> list[int]:
        return list(cv2.dnn.NMSBoxesRotated(rectangles, scores.tolist(), 0, 0.1))

    expected = greedy_by_shapely(boxes, scores, 0.1)
    for name, function in (
        ("rotated_nms", lambda: rotated_nms(boxes, scores, labels, 0.1).tolist()),
        ("cv2.dnn.NMSBoxesRotated", by_cv2),
        ("shapely, STRtree", lambda: greedy_by_shapely(boxes, scores, 0.1)),
    ):
        wrong = len(set(function()) ^ set(expected))
        remark = f"keeps {len(function())}, {wrong} differ from the exact result"
        repeats = REPEATS if name == "rotated_nms" else 3
        row(f"{name}, 2000 boxes over {spread} px", measure(function, repeats), remark)


def compare_suppression(count: int, num_classes: int, clustered: bool) -> None:
    """Upright boxes in 640 px, threshold 0.65; `clustered`: twenty around each object."""
    objects = count // 20 if clustered else count
    centres, sides = RANDOM.uniform(0, 640, (objects, 2)), log_uniform(10, 300, (objects, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    if clustered:
        chosen = RANDOM.integers(0, objects, count)
        boxes = boxes[chosen] + RANDOM.normal(0, 0.08, (count, 4)) * np.tile(sides[chosen], 2)
    boxes = np.clip(boxes, 0, 640).astype(np.float32)
    scores = RANDOM.random(count, np.float32)
    labels = RANDOM.integers(0, num_classes, count).astype(np.int32)
    rectangles = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()

    def ours() -> list[int]:
        return nms(boxes, scores, labels, 0.65, max_kept=300).tolist()

    def by_cv2() -> list[int]:
        kept = cv2.dnn.NMSBoxesBatched(rectangles, scores.tolist(), labels.tolist(), 0, 0.65)
        return list(kept)[:300]

    kind = f"{count} boxes, {num_classes} classes, {'clustered' if clustered else 'spread'}"
    differing = len(set(ours()) ^ set(by_cv2()))
    row(f"nms, {kind}", measure(ours), f"keeps {len(ours())}, {differing} differ from cv2")
    row(f"cv2.dnn.NMSBoxesBatched, {kind}", measure(by_cv2, 3))


def instances(letterbox: Letterbox, count: int) -> tuple[np.ndarray, ...]:
    """Kernels that draw ragged diamonds inside boxes with sides of 30 to 600 image pixels."""
    size = np.array([letterbox.image_width, letterbox.image_height])
    sides = np.minimum(log_uniform(30, 600, (count, 2)), size)
    centres = RANDOM.uniform(sides / 2, size - sides / 2)
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    scale = np.array([letterbox.scale_x, letterbox.scale_y])
    priors = np.column_stack([centres * scale, RANDOM.choice([8, 16, 32], count)])

    first, third = np.zeros((count, 8, 10)), np.zeros((count, 8))
    # Four hidden channels are the distances to the left, right, top and bottom of the prior.
    first[:, [0, 1, 2, 3], [0, 0, 1, 1]] = [1, -1, 1, -1]
    first[:, 4:, 2:6] = np.eye(4)
    half_sides = sides * scale / 2 / (8 * priors[:, 2:])
    third[:, :4] = -1 / half_sides[:, [0, 0, 1, 1]]
    third[:, 4:] = RANDOM.normal(0, 0.3, (count, 4))
    second = np.tile(np.eye(8).reshape(-1), (count, 1))
    biases = np.concatenate([np.zeros((count, 16)), np.ones((count, 1))], axis=1)
    kernels = np.concatenate([first.reshape(count, -1), second, third, biases], axis=1)
    features = np.stack(
        [cv2.GaussianBlur(p, (0, 0), 1.5) for p in RANDOM.normal(0, 3, (8, 80, 80))]
    )
    return tuple(array.astype(np.float32) for array in (kernels, priors, features, boxes))


def whole_picture_masks(
    kernels: np.ndarray, priors: np.ndarray, features: np.ndarray, letterbox: Letterbox
) -> list[np.ndarray]:
    """The published way: every cell, enlarged by 8, enlarged to the image, then the threshold."""
    down, across = np.mgrid[:80, :80].astype(np.float32) * 8
    masks = []
    for kernel, (x, y, stride) in zip(kernels, priors, strict=True):
        w1, w2, w3, b1, b2, b3 = np.split(kernel, np.cumsum([80, 64, 8, 8, 8]))
        place = np.stack([x - across, y - down]) / (8 * stride)
        values = np.concatenate([place, features]).reshape(10, -1)
        values = np.maximum(w1.reshape(8, 10) @ values + b1[:, None], 0)
        values = np.maximum(w2.reshape(8, 8) @ values + b2[:, None], 0)
        logits = cv2.resize((w3 @ values + b3).reshape(80, 80), (640, 640))
        side = round(640 / letterbox.scale_x)
        picture = cv2.resize(logits, (side, side))
        masks.append(picture[: letterbox.image_height, : letterbox.image_width] > 0)
    return masks


def compare_masks() -> None:
    """100 instances in a picture of 1920 x 1080, network input 640 x 640."""
    letterbox = letterbox_of(1920, 1080, 640, 640)
    kernels, priors, features, boxes = instances(letterbox, 100)

    def assemble(crop_to_boxes: bool) -> list[InstanceMask]:
        return assemble_masks(kernels, priors, features, boxes, letterbox, 0.5, crop_to_boxes)

    def assemble_and_encode() -> list[object]:
        return [encode_rle(mask) for mask in assemble(True)]

    cropped, whole = assemble(True), assemble(False)
    pictures = whole_picture_masks(kernels, priors, features, letterbox)
    wrong = max(int((dense(a) != b).sum()) for a, b in zip(whole, pictures, strict=True))
    area = sum(mask.crop.size for mask in cropped) / 1e6
    fill = sum(mask.crop.sum() for mask in cropped) / area / 1e6
    row(
        "assemble_masks in boxes", measure(lambda: assemble(True)), f"{area:.1f} Mpx, {fill:.0%} on"
    )
    row("assemble_masks in boxes, encode_rle", measure(assemble_and_encode))
    row("assemble_masks, whole picture", measure(lambda: assemble(False)))
    row(
        "numpy + cv2.resize, whole picture",
        measure(lambda: whole_picture_masks(kernels, priors, features, letterbox), 2),
        f"at most {wrong} pixels of a mask differ",
    )
    row("encode_rle", measure(lambda: [encode_rle(mask) for mask in cropped]))
    fortran = [np.asfortranarray(dense(mask).view(np.uint8)) for mask in cropped]
    row(
        "pycocotools.mask.encode of the pictures",
        measure(lambda: list(map(coco_mask.encode, fortran)), 2),
    )
    row("polygons", measure(lambda: [polygons(mask) for mask in cropped]))
    row("encode_png", measure(lambda: [encode_png(mask) for mask in cropped], 2))


def time_postprocess() -> None:
    """1000 candidates for 100 objects, all above the threshold, as a row of a batch has them."""
    letterbox = letterbox_of(1920, 1080, 640, 640)
    kernels, priors, features, boxes = instances(letterbox, 100)
    chosen = np.repeat(np.arange(100), 10)
    candidates = Candidates(
        boxes=boxes[chosen] * np.float32(letterbox.scale_x)
        + RANDOM.normal(0, 1, (1000, 4)).astype(np.float32),
        scores=np.linspace(0.95, 0.31, 1000, dtype=np.float32),
        labels=(chosen % 80).astype(np.int32),
        kernels=kernels[chosen],
        priors=priors[chosen],
        mask_features=features,
    )
    for with_masks in (False, True):

        def run(with_masks: bool = with_masks) -> int:
            return len(
                postprocess(
                    candidates, letterbox, SERVING_SETTINGS["instance"], with_masks=with_masks
                )
            )

        kind = "with masks" if with_masks else "boxes alone"
        row(f"postprocess, 1000 candidates, {kind}", measure(run), f"{run()} detections")


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    print(f"{platform.machine()}, numpy {np.__version__}, OpenCV {cv2.__version__}")
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')}")
    row("", f"{'best ms':>9} {'median ms':>9}")
    for spread in (1024, 300):
        compare_rotated_suppression(spread)
    for count, num_classes, clustered in (
        (300, 80, True),
        (1000, 80, True),
        (1000, 1, True),
        (1000, 1, False),
        (30000, 80, True),
    ):
        compare_suppression(count, num_classes, clustered)
    compare_masks()
    time_postprocess()


if __name__ == "__main__":
    main()
