"""Average precision of whole sets of rotated boxes: a DOTA set by hand, and exact polygons."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import shapely
import shapely.affinity

from tests.data_sets import index_of, write_image, write_lines
from training.evaluation.average_precision import Metrics, average_precision
from training.evaluation.comparison import compare
from training.evaluation.instances import Found, Truth

#: As DOTA's kit steps from 0 to 1: three of them lie a little above the tenths.
KIT_RECALLS = np.arange(0.0, 1.1, 0.1).tolist()

DOTA_LABELS = {
    "P1": [
        "imagesource:GoogleEarth",
        "20 20 60 20 60 40 20 40 ship 0",
        "100 20 140 20 140 40 100 40 ship 1",
        "100 80 130 110 100 140 70 110 ship 0",
    ],
    "P2": [
        "20 100 60 100 60 120 20 120 ship 0",
        "40 20 160 20 160 110 40 110 plane 0",
    ],
}
DIAGONAL = 60 / np.sqrt(2)
#: Image, box, score, all of them ships.
DOTA_DETECTIONS = [
    # The first ship of P1 moved by 8 of its 40 pixels: 32 / 48 = 2/3.
    (0, (48, 30, 40, 20, 0), 0.95),
    # The difficult one.
    (0, (120, 30, 40, 20, 0), 0.9),
    # The diamond, upright: an octagon of (2 sqrt 2 - 2) s^2 is common to both squares, and the
    # ratio is 1 / sqrt 2.
    (0, (100, 110, DIAGONAL, DIAGONAL, 0), 0.8),
    # The first one again, exactly.
    (0, (40, 30, 40, 20, 0), 0.7),
    # The ship of P2.
    (1, (40, 110, 40, 20, 0), 0.6),
    # Nothing.
    (1, (100, 170, 100, 50, 0.2), 0.5),
]

#: Classes of the random sets.
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def dota_metrics(tmp_path_factory) -> Metrics:
    folder: Path = tmp_path_factory.mktemp("dota")
    for stem, lines in DOTA_LABELS.items():
        write_image(folder / "train" / "images" / f"{stem}.png", width=200, height=200)
        write_lines(folder / "train" / "labelTxt" / f"{stem}.txt", lines)
    index = index_of(folder, "rotated")
    of_images = [index.evaluation_annotations(position) for position in range(2)]
    truth = Truth(
        image_sizes=np.array([index.image_size(position) for position in range(2)]),
        images=np.repeat([0, 1], [len(each) for each in of_images]),
        labels=np.concatenate([each.labels for each in of_images]),
        boxes=np.concatenate([each.boxes for each in of_images]),
        areas=np.concatenate([each.areas for each in of_images]),
        ignored=np.concatenate([each.is_difficult for each in of_images]),
    )
    found = Found(
        images=np.array([row[0] for row in DOTA_DETECTIONS]),
        labels=np.full(len(DOTA_DETECTIONS), index.classes.index("ship")),
        scores=np.array([row[2] for row in DOTA_DETECTIONS], np.float32),
        boxes=np.array([row[1] for row in DOTA_DETECTIONS], np.float32),
    )
    return average_precision(compare("rotated", truth, found, 2), index.classes)


def test_rotated_precision__of_a_dota_set_by_hand(dota_metrics):
    ship = dota_metrics.per_class["ship"]

    # Three ships are to be found. At 0.5: right, difficult, right, found before, right, wrong.
    # Recall 1/3, 2/3, 2/3, 1, 1; precision 1, 1, 2/3, 3/4, 3/5.
    assert ship["rotated_ap50"] == pytest.approx(1 / 3 + 1 / 3 + 1 / 3 * 3 / 4)
    # Precision 1 at recalls 0 to 0.6, 3/4 at 0.7 to 1.
    assert ship["rotated_ap50_voc07"] == pytest.approx((7 * 1 + 4 * 3 / 4) / 11)
    # At 0.75: wrong, difficult, wrong, right, right, wrong.
    # Recall 1/3, 2/3, 2/3 and precision 1/3, 1/2, 2/5 from the fourth on.
    assert ship["rotated_ap75"] == pytest.approx(2 / 3 * 1 / 2)
    # 0.50 to 0.65 are like 0.5, 0.75 to 0.95 like 0.75. At 0.70: wrong, difficult, right, right,
    # right, wrong; recall 1/3, 2/3, 1 and precision 1/2, 2/3, 3/4.
    assert ship["rotated_ap"] == pytest.approx((4 * 11 / 12 + 3 / 4 + 5 * 1 / 3) / 10)


def test_rotated_precision__of_a_dota_set_is_the_mean_over_its_classes(dota_metrics):
    assert set(dota_metrics.per_class["plane"].values()) == {0.0}
    assert dota_metrics.values["rotated_ap50"] == pytest.approx(11 / 12 / 2)


def test_rotated_precision__by_size_by_hand(dota_metrics):
    ship = dota_metrics.per_class["ship"]

    # Of 800 square pixels are two ships and of 1800 the diamond; the wrong detection has 5000.
    # Small, 0.50 to 0.65: right, difficult, diamond, found before, right, too large to be wrong:
    # recall 1/2, 1/2, 1; precision 1, 1/2, 2/3. From 0.70 on the first is wrong and the fourth
    # right: recall 0, 1/2, 1; precision 0, 1/2, 2/3.
    assert ship["rotated_ap_small"] == pytest.approx((4 * (1 / 2 + 1 / 2 * 2 / 3) + 6 * 2 / 3) / 10)
    # Medium: the third is right up to 0.70 and wrong above; all others are of other sizes.
    assert ship["rotated_ap_medium"] == pytest.approx(5 / 10)
    assert "rotated_ap_large" not in ship
    assert dota_metrics.per_class["plane"].keys() >= {"rotated_ap", "rotated_ap_large"}


def by_polygons(truth: Truth, found: Found, label: int, threshold: float) -> tuple[float, float]:
    """Area under the curve and eleven-point mean, detection by detection, with shapely."""
    wanted = (truth.labels == label) & ~truth.ignored
    taken: set[int] = set()
    verdicts = []
    rows = np.flatnonzero(found.labels == label)
    for row in rows[np.argsort(-found.scores[rows], kind="stable")]:
        shape, best, nearest = polygon(found.boxes[row]), 0.0, -1
        for other in np.flatnonzero((truth.labels == label) & (truth.images == found.images[row])):
            instance = polygon(truth.boxes[other])
            ratio = shape.intersection(instance).area / shape.union(instance).area
            if ratio > best:
                best, nearest = ratio, int(other)
        if best > threshold and truth.ignored[nearest]:
            continue
        verdicts.append(best > threshold and nearest not in taken)
        if verdicts[-1]:
            taken.add(nearest)
    points = [
        (sum(verdicts[:end]) / wanted.sum(), sum(verdicts[:end]) / end)
        for end in range(1, len(verdicts) + 1)
    ]

    def best_from(recall: float) -> float:
        return max((precision for reached, precision in points if reached >= recall), default=0)

    steps = sorted({0.0, *(recall for recall, _ in points)})
    area = sum((end - start) * best_from(end) for start, end in pairwise(steps))
    return area, sum(best_from(recall) for recall in KIT_RECALLS) / 11


def polygon(box: np.ndarray) -> shapely.Polygon:
    centre_x, centre_y, width, height, angle_rad = box.tolist()
    upright = shapely.box(-width / 2, -height / 2, width / 2, height / 2)
    turned = shapely.affinity.rotate(upright, angle_rad, origin=(0, 0), use_radians=True)
    return shapely.affinity.translate(turned, centre_x, centre_y)


def random_rotated(seed: int) -> tuple[Truth, Found]:
    """Six crowded images, three classes, some instances difficult, equal scores."""
    random = np.random.default_rng(seed)
    count = 60
    columns = [
        random.uniform(0, 250, (count, 2)),
        random.uniform(12, 120, (count, 2)),
        random.uniform(-2, 2, count),
    ]
    boxes = np.column_stack(columns)
    truth = Truth(
        image_sizes=np.full((6, 2), 250),
        images=random.integers(0, 6, count),
        labels=random.integers(0, 3, count),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        ignored=random.random(count) < 0.2,
    )
    near = random.integers(0, count, 4 * count)
    noise = random.normal(0, 1, (4 * count, 5)) * (5, 5, 5, 5, 0.08)
    moved = boxes[near] + noise
    moved[:, 2:4] = np.maximum(moved[:, 2:4], 3)
    return truth, Found(
        images=truth.images[near],
        labels=np.where(random.random(4 * count) < 0.8, truth.labels[near], 0),
        scores=np.round(random.random(4 * count), 2).astype(np.float32),
        boxes=moved,
    )


@pytest.mark.parametrize("seed", range(4))
def test_rotated_precision__is_that_of_exact_polygons(seed):
    truth, found = random_rotated(seed)

    metrics = average_precision(compare("rotated", truth, found, 3), NAMES)
    for label, name in enumerate(NAMES):
        area, eleven_points = by_polygons(truth, found, label, 0.5)
        assert 0.1 < area < 0.95
        assert metrics.per_class[name]["rotated_ap50"] == pytest.approx(area, abs=1e-9)
        assert metrics.per_class[name]["rotated_ap50_voc07"] == pytest.approx(eleven_points)
        area, _ = by_polygons(truth, found, label, 0.75)
        assert metrics.per_class[name]["rotated_ap75"] == pytest.approx(area, abs=1e-9)


def test_rotated_precision__comparison_with_polygons_notices_difficult_instances():
    truth, found = random_rotated(0)
    area, _ = by_polygons(truth, found, 1, 0.5)
    truth.ignored[:] = False

    values = average_precision(compare("rotated", truth, found, 3), NAMES).per_class["two"]
    assert abs(values["rotated_ap50"] - area) > 1e-3
