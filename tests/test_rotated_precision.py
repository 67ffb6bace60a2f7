"""Average precision of rotated boxes, rule by rule."""

import numpy as np
import pytest

from tests.rotated_sets import BOX, ELSEWHERE, OFF_BY_A_QUARTER, rotated_metrics
from training.evaluation import image_pairs


def test_rotated_precision__of_what_is_there_is_one():
    boxes = [(image, box) for image in range(3) for box in (BOX, ELSEWHERE)]

    values = rotated_metrics([(*box, False) for box in boxes], [(*box, 0.5) for box in boxes])
    names = ("ap", "ap50", "ap75", "ap50_voc07", "ap_small")
    assert values == pytest.approx({f"rotated_{name}": 1 for name in names})


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
    monkeypatch.setattr(image_pairs, "_MAX_PAIRS", 50)

    assert 0.05 < whole["rotated_ap"] < 0.95
    assert rotated_metrics(instances, detections) == whole
