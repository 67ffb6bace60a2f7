"""Average precision: pycocotools' own figures for boxes and masks, rotated ones by hand."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.evaluation import rotated_precision as rotated_module
from training.evaluation.average_precision import average_precision, primary_metric
from training.evaluation.instances import Found, Truth

SIDE = 160
CLASSES = ("one", "two", "three")


def blob(box, random) -> bytes:
    """A mask in a box, as compressed run lengths: an ellipse, with some rows missing."""
    x1, y1, x2, y2 = (int(v) for v in box)
    picture = np.zeros((SIDE, SIDE), np.uint8, order="F")
    rows, columns = np.mgrid[y1:y2, x1:x2]
    within = ((columns - (x1 + x2) / 2) / (x2 - x1)) ** 2 + (
        (rows - (y1 + y2) / 2) / (y2 - y1)
    ) ** 2
    picture[y1:y2, x1:x2] = within <= 0.25
    picture[random.integers(y1, y2)] = 0
    return coco_mask.encode(picture)["counts"]


def random_boxes(random, count) -> np.ndarray:
    sides = np.exp(random.uniform(2, 4.8, (count, 2)))
    corners = random.uniform(0, 1, (count, 2)) * (SIDE - sides)
    return np.round(np.concatenate([corners, corners + sides], axis=1)).astype(np.float32)


def random_set(seed=0, num_images=12) -> tuple[Truth, Found]:
    """Instances, crowds among them, and detections that are more or less off, some of nothing."""
    random = np.random.default_rng(seed)
    count = num_images * 5
    boxes = random_boxes(random, count)
    images = random.integers(0, num_images, count)
    truth = Truth(
        image_sizes=np.full((num_images, 2), SIDE),
        images=images,
        labels=random.integers(0, 2, count),
        boxes=boxes,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1).astype(np.float64) * 0.7,
        ignored=random.random(count) < 0.15,
        masks=tuple(blob(box, random) for box in boxes),
    )
    rows = random.integers(0, count, count * 2)
    moved = np.clip(np.round(boxes[rows] + random.normal(0, 3, (len(rows), 4))), 0, SIDE)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 4).clip(0, SIDE)
    moved[:, :2] = np.minimum(moved[:, :2], moved[:, 2:] - 4)
    found = Found(
        images=np.where(random.random(len(rows)) < 0.8, images[rows], 0),
        labels=np.where(random.random(len(rows)) < 0.8, truth.labels[rows], 2),
        scores=np.round(random.random(len(rows)), 2).astype(np.float32),
        boxes=moved.astype(np.float32),
        masks=tuple(blob(box, random) for box in moved),
    )
    return truth, found


def pycocotools_stats(truth: Truth, found: Found, iou_type: str) -> np.ndarray:
    """The six average precisions that pycocotools prints, from files as everybody writes them."""
    xywh = [
        np.concatenate([each.boxes[:, :2], each.boxes[:, 2:] - each.boxes[:, :2]], axis=1).tolist()
        for each in (truth, found)
    ]
    annotations = [
        {
            "id": row + 1,
            "image_id": int(truth.images[row]) + 1,
            "category_id": int(truth.labels[row]) + 1,
            "bbox": xywh[0][row],
            "area": float(truth.areas[row]),
            "iscrowd": int(truth.ignored[row]),
            "segmentation": {"size": [SIDE, SIDE], "counts": truth.masks[row].decode()},
        }
        for row in range(len(truth))
    ]
    extent = {
        "bbox": lambda row: {"bbox": xywh[1][row]},
        "segm": lambda row: {
            "segmentation": {"size": [SIDE, SIDE], "counts": found.masks[row].decode()}
        },
    }[iou_type]
    results = [
        {
            "image_id": int(found.images[row]) + 1,
            "category_id": int(found.labels[row]) + 1,
            "score": float(found.scores[row]),
            **extent(row),
        }
        for row in range(len(found))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [
                {"id": i + 1, "height": SIDE, "width": SIDE} for i in range(len(truth.image_sizes))
            ],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
            "info": {},
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


def rotated_set(instances, detections) -> tuple[Truth, Found]:
    """From rows (image, box, difficult) and (image, box, score), all of one class."""
    truth = Truth(
        image_sizes=np.full((3, 2), SIDE),
        images=np.array([row[0] for row in instances], np.int64),
        labels=np.zeros(len(instances), np.int64),
        boxes=np.array([row[1] for row in instances], np.float64).reshape(-1, 5),
        areas=np.ones(len(instances)),
        ignored=np.array([row[2] for row in instances], bool),
    )
    found = Found(
        images=np.array([row[0] for row in detections], np.int64),
        labels=np.zeros(len(detections), np.int64),
        scores=np.array([row[2] for row in detections], np.float32),
        boxes=np.array([row[1] for row in detections], np.float32).reshape(-1, 5),
    )
    return truth, found


def rotated_metrics(instances, detections) -> dict[str, float]:
    return average_precision("rotated", *rotated_set(instances, detections), CLASSES).values


def no_detections(has_masks: bool = False) -> Found:
    return Found(
        images=np.zeros(0, np.int64),
        labels=np.zeros(0, np.int64),
        scores=np.zeros(0, np.float32),
        boxes=np.zeros((0, 4), np.float32),
        masks=() if has_masks else None,
    )


BOX = (50, 50, 40, 20, 0.3)
ELSEWHERE = (120, 120, 40, 20, 0.3)
#: Overlaps BOX by 3/5.
OFF_BY_A_QUARTER = (50 + 10 * np.cos(0.3), 50 + 10 * np.sin(0.3), 40, 20, 0.3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "iou_type"), [("box", "bbox"), ("mask", "segm")])
def test_average_precision__is_pycocotools_own(seed, kind, iou_type):
    truth, found = random_set(seed)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")

    metrics = average_precision("instance", truth, found, CLASSES)
    ours = [metrics.values.get(f"{kind}_{name}", -1) for name in names]

    theirs = pycocotools_stats(truth, found, iou_type)
    assert 0 < theirs[0] < 0.9
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_average_precision__of_a_class_is_pycocotools_of_that_class_alone():
    truth, found = random_set()
    metrics = average_precision("detect", truth, found, CLASSES)
    rows, found_rows = truth.labels == 1, found.labels == 1
    alone = replace(
        truth,
        **{
            name: getattr(truth, name)[rows]
            for name in ("images", "labels", "boxes", "areas", "ignored")
        },
    )
    found_alone = replace(
        found,
        **{
            name: getattr(found, name)[found_rows]
            for name in ("images", "labels", "boxes", "scores")
        },
    )

    theirs = pycocotools_stats(alone, found_alone, "bbox")
    assert metrics.per_class["two"]["box_ap"] == pytest.approx(theirs[0], abs=1e-12)


def test_average_precision__leaves_out_a_class_that_is_never_annotated():
    truth, found = random_set()

    assert (found.labels == 2).any()
    assert set(average_precision("detect", truth, found, CLASSES).per_class) == {"one", "two"}


def test_average_precision__does_not_change_with_other_images():
    truth, found = random_set()
    wider = replace(truth, image_sizes=np.full((500, 2), SIDE))

    metrics = average_precision("detect", wider, found, CLASSES)
    assert metrics.values == average_precision("detect", truth, found, CLASSES).values
    assert metrics.num_images == 500


def test_average_precision__prints_nothing(capsys):
    average_precision("instance", *random_set(), CLASSES)

    assert capsys.readouterr().out == ""


def test_average_precision__without_detections_is_zero():
    truth, _ = random_set()

    values = average_precision("instance", truth, no_detections(has_masks=True), CLASSES).values
    assert values["box_ap"] == values["mask_ap"] == 0


def test_average_precision__of_rotated_boxes_without_detections_is_zero():
    assert set(rotated_metrics([(0, BOX, False)], []).values()) == {0.0}


def test_average_precision__of_many_masks_of_one_class():
    truth, found = random_set(num_images=100)
    assert np.bincount(truth.labels).min() > 200
    alike = replace(found, labels=np.zeros_like(found.labels))
    assert len(alike) > 500

    metrics = average_precision("instance", truth, alike, CLASSES)
    assert 0 < metrics.per_class["one"]["mask_ap"] < 1


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_average_precision__refuses_a_set_with_nothing_to_be_found(task):
    truth, _ = random_set()
    crowds = replace(truth, ignored=np.ones(len(truth), bool))
    found = no_detections(has_masks=task == "instance")

    with pytest.raises(ValueError, match="nothing to be found in the validation images"):
        average_precision(task, crowds, found, CLASSES)


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_primary_metric__is_among_the_metrics(task):
    if task == "rotated":
        truth, found = rotated_set([(0, BOX, False)], [(0, BOX, 0.9)])
    else:
        truth, found = random_set()

    assert primary_metric(task) in average_precision(task, truth, found, CLASSES).values


def test_rotated_precision__of_what_is_there_is_one():
    boxes = [(image, box) for image in range(3) for box in (BOX, ELSEWHERE)]

    values = rotated_metrics([(*box, False) for box in boxes], [(*box, 0.5) for box in boxes])
    assert values == pytest.approx(
        {"rotated_ap": 1, "rotated_ap50": 1, "rotated_ap75": 1, "rotated_ap50_voc07": 1}
    )


def test_rotated_precision__knows_a_box_with_its_sides_exchanged():
    turned = (50, 50, 20, 40, 0.3 + np.pi / 2)

    assert rotated_metrics([(0, BOX, False)], [(0, turned, 0.5)])["rotated_ap"] == pytest.approx(1)


def test_rotated_precision__an_overlap_of_three_fifths_passes_the_lower_threshold_alone():
    values = rotated_metrics([(0, BOX, False)], [(0, OFF_BY_A_QUARTER, 0.5)])

    assert values["rotated_ap50"] == 1
    assert values["rotated_ap75"] == 0


def test_rotated_precision__mean_over_thresholds_by_hand():
    # Moved by a fifth along its length: 32 / 48 = 2/3, above .50, .55, .60 and .65.
    moved = (50 + 8 * np.cos(0.3), 50 + 8 * np.sin(0.3), 40, 20, 0.3)

    assert rotated_metrics([(0, BOX, False)], [(0, moved, 0.5)])["rotated_ap"] == pytest.approx(0.4)


def test_rotated_precision__by_hand():
    # Right, wrong, right by falling score; one of three is missed.
    # Recall 1/3, 1/3, 2/3; precision 1, 1/2, 2/3.
    instances = [(0, BOX, False), (1, BOX, False), (2, BOX, False)]
    detections = [(0, BOX, 0.9), (1, ELSEWHERE, 0.8), (1, BOX, 0.7)]

    values = rotated_metrics(instances, detections)
    assert values["rotated_ap50"] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # Recalls 0 to 0.3 have precision 1, 0.4 to 0.6 have 2/3, 0.7 to 1 have none.
    assert values["rotated_ap50_voc07"] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_rotated_precision__a_second_detection_of_an_instance_is_wrong():
    # Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    instances = [(0, BOX, False), (1, BOX, False)]
    detections = [(0, BOX, 0.9), (0, OFF_BY_A_QUARTER, 0.8), (1, BOX, 0.7)]

    assert rotated_metrics(instances, detections)["rotated_ap50"] == pytest.approx(
        1 / 2 * 1 + 1 / 2 * 2 / 3
    )


def test_rotated_precision__the_better_score_is_right_whatever_the_order():
    instances = [(0, BOX, False)]
    detections = [(0, OFF_BY_A_QUARTER, 0.3), (0, BOX, 0.9)]

    assert rotated_metrics(instances, detections)["rotated_ap75"] == pytest.approx(1)


def test_rotated_precision__is_compared_with_the_instance_overlapped_most():
    # The second detection overlaps the first instance most, which is taken, and also the other.
    near = (50 + 4 * np.cos(0.3), 50 + 4 * np.sin(0.3), 40, 20, 0.3)
    far = (50 - 8 * np.cos(0.3), 50 - 8 * np.sin(0.3), 40, 20, 0.3)
    detections = [(0, BOX, 0.9), (0, near, 0.8)]

    values = rotated_metrics([(0, BOX, False), (0, far, False)], detections)
    assert values["rotated_ap50"] == pytest.approx(0.5)


def test_rotated_precision__a_difficult_instance_is_neither_missed_nor_wrong_to_find():
    instances = [(0, BOX, False), (0, ELSEWHERE, True), (1, ELSEWHERE, True)]
    detections = [(0, ELSEWHERE, 0.9), (0, ELSEWHERE, 0.85), (0, BOX, 0.8)]

    assert rotated_metrics(instances, detections)["rotated_ap50"] == pytest.approx(1)


def test_rotated_precision__never_compares_different_images():
    values = rotated_metrics([(0, BOX, False)], [(1, BOX, 0.9)])

    assert values["rotated_ap50"] == 0


def test_rotated_precision__is_the_same_in_small_chunks(monkeypatch):
    random = np.random.default_rng(0)
    boxes = np.column_stack(
        [random.uniform(20, 140, (300, 2)), random.uniform(8, 60, (300, 2)), random.random(300)]
    )
    instances = [(int(random.integers(3)), tuple(box), random.random() < 0.1) for box in boxes[:60]]
    detections = [
        (image, tuple(np.add(box, random.normal(0, 2, 5) * (1, 1, 1, 1, 0.05))), random.random())
        for image, box, _ in instances * 4
    ]
    whole = rotated_metrics(instances, detections)
    monkeypatch.setattr(rotated_module, "_MAX_PAIRS", 50)

    assert 0.05 < whole["rotated_ap"] < 0.95
    assert rotated_metrics(instances, detections) == whole


def test_found__joined_parts_do_not_depend_on_how_they_were_shared_out():
    _, found = random_set()
    order = np.argsort(found.images, kind="stable")

    def part(rows) -> Found:
        return Found(
            found.images[rows],
            found.labels[rows],
            found.scores[rows],
            found.boxes[rows],
            tuple(found.masks[row] for row in rows),
        )

    whole = part(order)
    even = found.images[order] % 2 == 0
    joined = Found.joined([part(order[even]), part(order[~even])])
    np.testing.assert_array_equal(joined.boxes, whole.boxes)
    np.testing.assert_array_equal(joined.scores, whole.scores)
    assert joined.masks == whole.masks
