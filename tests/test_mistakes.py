"""Mistakes: cases made by hand, a plain loop over small random sets, and sums that must agree."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from model.config import Task
from training.evaluation.instances import Found, Truth
from training.evaluation.mistake_totals import (
    image_costs,
    totals_by_class,
    totals_by_image,
    totals_by_size,
    worst_images,
)
from training.evaluation.mistakes import (
    Judged,
    Outcome,
    Verdict,
    best_threshold,
    f1_curve,
    judged,
)
from training.evaluation.overlaps import overlapping_pairs

CAT, DOG = 0, 1
SIZE = 100


def truth_of(*rows: tuple[int, int, list[float]], ignored: tuple[int, ...] = ()) -> Truth:
    """Instances (image, label, box) in two images."""
    boxes = np.array([box for *_, box in rows] or np.zeros((0, 4)), np.float32)
    sides = boxes[:, 2:4] if boxes.shape[1] == 5 else boxes[:, 2:] - boxes[:, :2]
    flags = np.zeros(len(rows), np.bool_)
    flags[list(ignored)] = True
    return Truth(
        image_sizes=np.full((2, 2), SIZE),
        images=np.array([image for image, *_ in rows], np.int64),
        labels=np.array([label for _, label, _ in rows], np.int64),
        boxes=boxes,
        areas=sides.prod(axis=1).astype(np.float64),
        ignored=flags,
    )


def found_of(*rows: tuple[int, int, float, list[float]], width: int = 4) -> Found:
    """Detections (image, label, score, box)."""
    return Found(
        images=np.array([image for image, *_ in rows], np.int64),
        labels=np.array([label for _, label, *_ in rows], np.int64),
        scores=np.array([score for _, _, score, _ in rows], np.float32),
        boxes=np.array([box for *_, box in rows], np.float32).reshape(len(rows), width),
    )


def verdicts(of: Judged) -> list[Verdict]:
    return [Verdict(each) for each in of.verdicts]


def outcomes(of: Judged) -> list[Outcome]:
    return [Outcome(each) for each in of.outcomes]


BOX = [10.0, 10, 30, 30]
#: Overlaps of 2/3, 1/3 and 1/19 with the box above.
NEAR, ASIDE, TOUCHING = [14.0, 10, 34, 30], [20.0, 10, 40, 30], [28.0, 10, 48, 30]
FAR = [60.0, 60, 80, 80]


@pytest.mark.parametrize(
    ("label", "box", "verdict", "outcome"),
    [
        (CAT, BOX, Verdict.RIGHT, Outcome.FOUND),
        (CAT, NEAR, Verdict.RIGHT, Outcome.FOUND),
        (DOG, NEAR, Verdict.CONFUSED, Outcome.CONFUSED),
        (CAT, ASIDE, Verdict.POORLY_PLACED, Outcome.POORLY_PLACED),
        (DOG, ASIDE, Verdict.FALSE, Outcome.MISSED),
        (CAT, TOUCHING, Verdict.FALSE, Outcome.MISSED),
        (CAT, FAR, Verdict.FALSE, Outcome.MISSED),
    ],
)
def test_judged__one_detection_of_one_cat(
    label: int, box: list[float], verdict: Verdict, outcome: Outcome
) -> None:
    result = judged("detect", truth_of((0, CAT, BOX)), found_of((0, label, 0.9, box)))
    assert verdicts(result) == [verdict]
    assert outcomes(result) == [outcome]


def test_judged__the_weaker_of_two_is_a_duplicate() -> None:
    found = found_of((0, CAT, 0.5, BOX), (0, CAT, 0.8, NEAR))
    result = judged("detect", truth_of((0, CAT, BOX)), found)
    assert verdicts(result) == [Verdict.DUPLICATE, Verdict.RIGHT]
    assert result.instances.tolist() == [0, 0]


def test_judged__a_detection_that_lost_its_favourite_takes_the_next() -> None:
    truth = truth_of((0, CAT, BOX), (0, CAT, [16.0, 10, 36, 30]))
    found = found_of((0, CAT, 0.9, BOX), (0, CAT, 0.8, [12.0, 10, 32, 30]))
    result = judged("detect", truth, found)
    assert verdicts(result) == [Verdict.RIGHT, Verdict.RIGHT]
    assert result.instances.tolist() == [0, 1]


def test_judged__images_do_not_meet() -> None:
    result = judged("detect", truth_of((0, CAT, BOX)), found_of((1, CAT, 0.9, BOX)))
    assert verdicts(result) == [Verdict.FALSE]
    assert outcomes(result) == [Outcome.MISSED]


def test_judged__a_crowd_is_neither_found_nor_wrong() -> None:
    truth = truth_of((0, CAT, [0.0, 0, 90, 90]), ignored=(0,))
    # Inside the crowd, which is far larger: what counts is the part that lies within.
    found = found_of((0, CAT, 0.9, BOX), (0, CAT, 0.8, BOX), (0, DOG, 0.7, BOX))
    result = judged("detect", truth, found)
    assert verdicts(result) == [Verdict.NEITHER, Verdict.NEITHER, Verdict.FALSE]
    assert outcomes(result) == [Outcome.NEITHER]


def test_judged__an_instance_in_a_crowd_is_taken_first() -> None:
    truth = truth_of((0, CAT, [0.0, 0, 90, 90]), (0, CAT, BOX), ignored=(0,))
    result = judged("detect", truth, found_of((0, CAT, 0.9, NEAR), (0, CAT, 0.8, BOX)))
    assert verdicts(result) == [Verdict.RIGHT, Verdict.NEITHER]


def test_judged__weak_detections_are_not_there() -> None:
    found = found_of((0, CAT, 0.3, BOX), (0, CAT, 0.5, FAR))
    result = judged("detect", truth_of((0, CAT, BOX)), found, score_threshold=0.5)
    assert verdicts(result) == [Verdict.WEAK, Verdict.FALSE]
    assert outcomes(result) == [Outcome.MISSED]


def test_judged__refuses_an_overlap_that_says_nothing() -> None:
    with pytest.raises(ValueError, match=r"overlap of 0\.05"):
        judged("detect", truth_of((0, CAT, BOX)), found_of(), iou=0.05)


def test_judged__nothing_found_and_nothing_there() -> None:
    nothing = found_of()
    assert outcomes(judged("detect", truth_of((0, CAT, BOX)), nothing)) == [Outcome.MISSED]
    found = found_of((0, CAT, 0.9, BOX))
    assert verdicts(judged("detect", truth_of(), found)) == [Verdict.FALSE]
    assert worst_images(judged("detect", truth_of(), nothing), 5) == []


def test_judged__rotated_boxes_by_their_own_overlap() -> None:
    truth = truth_of((0, CAT, [50.0, 50, 60, 10, 0.0]))
    turned = found_of((0, CAT, 0.9, [50.0, 50, 60, 10, np.pi / 2]), width=5)
    same = found_of((0, CAT, 0.9, [50.0, 50, 10, 60, np.pi / 2]), width=5)
    # The crossing of the two bars is 1/11 of what they cover together.
    assert verdicts(judged("rotated", truth, turned)) == [Verdict.FALSE]
    assert verdicts(judged("rotated", truth, same)) == [Verdict.RIGHT]


def test_judged__masks_by_their_pixels_and_not_by_their_boxes() -> None:
    upper = np.tri(SIZE, dtype=np.uint8)
    lower = 1 - upper
    whole = [0.0, 0, SIZE, SIZE]
    truth = with_masks(truth_of((0, CAT, whole), (1, CAT, whole)), [upper, upper])
    found = with_masks(found_of((0, CAT, 0.9, whole), (1, CAT, 0.9, whole)), [upper, lower])
    result = judged("instance", truth, found)
    assert verdicts(result) == [Verdict.RIGHT, Verdict.FALSE]
    assert result.overlaps.tolist() == [1, 0]


def with_masks(instances: Any, masks: list[np.ndarray]) -> Any:
    rles = [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    return type(instances)(**{**vars(instances), "masks": tuple(rles)})


def test_confusion__rows_are_what_is_there() -> None:
    truth = truth_of((0, CAT, BOX), (0, DOG, FAR), (1, DOG, BOX))
    found = found_of((0, CAT, 0.9, BOX), (0, CAT, 0.8, NEAR), (1, CAT, 0.7, BOX))
    assert judged("detect", truth, found).confusion(2).tolist() == [
        [1, 0, 0],
        [1, 0, 1],
        [1, 0, 0],
    ]


def test_best_threshold__leaves_out_what_spoils() -> None:
    found = found_of(*[(0, CAT, 0.2, FAR)] * 3, (0, CAT, 0.6, BOX))
    curve = f1_curve(judged("detect", truth_of((0, CAT, BOX)), found))
    assert curve.f1.max() == 1
    # Everything from 0.21 to 0.60 is as good.
    assert best_threshold(curve) == pytest.approx(0.41)
    assert curve.recall[60] == 1
    assert curve.precision[20] == 0.25


def test_image_costs__a_miss_a_false_one_and_a_duplicate() -> None:
    truth = truth_of((0, CAT, BOX), (1, CAT, BOX))
    found = found_of((0, CAT, 0.9, FAR), (1, CAT, 0.9, BOX), (1, CAT, 0.5, BOX))
    result = judged("detect", truth, found)
    assert image_costs(result) == pytest.approx([1.9, 0.25])
    assert worst_images(result, 24) == [0, 1]
    assert worst_images(result, 1) == [0]


def test_totals_by_size__a_detection_counts_with_its_instance() -> None:
    truth = truth_of((0, CAT, [0.0, 0, 96, 96]), (1, CAT, BOX))
    found = found_of((0, CAT, 0.9, [0.0, 0, 70, 96]), (1, CAT, 0.9, [50.0, 50, 90, 90]))
    totals = totals_by_size(judged("detect", truth, found))
    right, false = totals.verdicts[:, Verdict.RIGHT], totals.verdicts[:, Verdict.FALSE]
    assert right.tolist() == [0, 0, 1]
    assert false.tolist() == [0, 1, 0]
    assert totals.outcomes[:, Outcome.MISSED].tolist() == [1, 0, 0]


@st.composite
def scenes(draw: st.DrawFn, task: Task) -> tuple[Truth, Found]:
    """Crowded images of few classes, so that everything happens."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    num_instances, num_detections = draw(st.integers(0, 12)), draw(st.integers(0, 20))
    return random_scene(rng, task, num_instances, num_detections)


def random_scene(rng: np.random.Generator, task: Task, t: int, m: int) -> tuple[Truth, Found]:
    def boxes(count: int) -> np.ndarray:
        corner = rng.integers(0, 12, (count, 2)) * 4.0
        size = rng.integers(4, 10, (count, 2)) * 4.0
        if task == "rotated":
            angle = rng.uniform(-3, 3, (count, 1))
            return np.concatenate([corner + size / 2, size, angle], 1).astype(np.float32)
        return np.concatenate([corner, corner + size], 1).astype(np.float32)

    def ints(high: int, count: int) -> np.ndarray:
        return rng.integers(0, high, count)

    truth = Truth(
        image_sizes=np.full((2, 2), SIZE),
        images=np.sort(ints(2, t)),
        labels=ints(2, t),
        boxes=boxes(t),
        areas=rng.uniform(16, 10_000, t),
        ignored=rng.random(t) < 0.2,
    )
    scores = (rng.integers(1, 100, m) / 100).astype(np.float32)
    found = Found(np.sort(ints(2, m)), ints(2, m), scores, boxes(m))
    if task == "instance":
        truth, found = with_masks(truth, filled(truth)), with_masks(found, filled(found))
    return truth, found


def filled(instances: Truth | Found) -> list[np.ndarray]:
    masks = []
    for x1, y1, x2, y2 in instances.boxes.astype(int):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[y1:y2, x1:x2] = 1
        masks.append(mask)
    return masks


@given(scenes("detect"))
@settings(max_examples=60, deadline=None)
def test_judged__equals_a_plain_loop(scene: tuple[Truth, Found]) -> None:
    truth, found = scene
    taken: set[int] = set()
    expected: dict[int, int] = {}
    pairs = overlapping_pairs("detect", truth, found, least=0.5)
    for row in np.argsort(-found.scores, kind="stable").tolist():
        for column in pairs.instances[pairs.detections == row].tolist():
            same = truth.labels[column] == found.labels[row]
            if same and not truth.ignored[column] and column not in taken:
                taken.add(column)
                expected[row] = column
                break
    result = judged("detect", truth, found)
    right = np.flatnonzero(result.verdicts == Verdict.RIGHT)
    assert dict(zip(right.tolist(), result.instances[right].tolist(), strict=True)) == expected


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_judged__counts_add_up(task: Task, data: st.DataObject) -> None:
    truth, found = data.draw(scenes(task))
    everything = judged(task, truth, found)
    threshold = data.draw(st.sampled_from([0.0, 0.3, 0.7]))
    result = judged(task, truth, found, score_threshold=threshold)
    np.testing.assert_array_equal(result.verdicts, everything.at_threshold(threshold).verdicts)
    np.testing.assert_array_equal(result.outcomes, everything.at_threshold(threshold).outcomes)

    counted = result.verdicts >= 0
    num_wanted = int((~truth.ignored).sum())
    for totals in (totals_by_size(result), totals_by_class(result, 2), totals_by_image(result)):
        assert totals.verdicts.sum() == counted.sum()
        assert totals.outcomes.sum() == num_wanted
        assert totals.verdicts[:, Verdict.RIGHT].sum() == totals.outcomes[:, Outcome.FOUND].sum()
    matrix = result.confusion(2)
    assert matrix[:, :2].sum(axis=0).tolist() == [
        int((counted & (found.labels == label)).sum()) for label in (0, 1)
    ]
    confused = int((result.outcomes == Outcome.CONFUSED).sum())
    assert matrix.diagonal()[:2].sum() + matrix[:2, 2].sum() + confused == num_wanted
    curve = f1_curve(everything)
    at = int(threshold * 100)
    assert curve.recall[at] * max(num_wanted, 1) == pytest.approx(matrix.diagonal()[:2].sum())


@given(scenes("detect"))
@settings(max_examples=15, deadline=None)
def test_overlaps__masks_that_fill_their_boxes_overlap_as_boxes_do(
    scene: tuple[Truth, Found],
) -> None:
    truth, found = scene
    boxes = overlapping_pairs("detect", truth, found, least=0.1)
    masks = overlapping_pairs(
        "instance", with_masks(truth, filled(truth)), with_masks(found, filled(found)), least=0.1
    )
    np.testing.assert_array_equal(boxes.detections, masks.detections)
    np.testing.assert_allclose(boxes.overlaps, masks.overlaps)
