"""Curves of precision against recall: pycocotools' own tables, and rotated ones by hand."""

import numpy as np
import pytest

from tests.coco_cases import IOU_TYPES, coco_case
from tests.rotated_sets import BOX, ELSEWHERE, rotated_set
from training.evaluation.average_precision import average_precision
from training.evaluation.comparison import compare
from training.evaluation.curves import RECALLS, over_all_classes, precision_recall

CASE = coco_case(3, num_classes=4, num_labelled=3)
#: Right, wrong, right by falling score; one of three is missed.
ROTATED = compare(
    "rotated",
    *rotated_set(
        [(0, BOX, False), (1, BOX, False), (2, BOX, False), (2, ELSEWHERE, True)],
        [(0, BOX, 0.9), (2, ELSEWHERE, 0.85), (1, ELSEWHERE, 0.8), (1, BOX, 0.7)],
    ),
    num_classes=1,
)


@pytest.mark.parametrize("kind", IOU_TYPES)
@pytest.mark.parametrize(("iou", "place"), [(0.5, 0), (0.75, 5)])
def test_precision_recall__is_pycocotools_own(kind, iou, place):
    theirs = CASE.by_pycocotools(kind).eval

    comparison = compare("instance", *CASE.packed(), len(CASE.classes))
    curves = precision_recall(comparison, CASE.classes, iou)[kind]
    assert set(curves) == {"class 1", "class 2"}
    for label in (1, 2):
        curve = curves[CASE.classes[label]]
        assert curve.iou == iou
        np.testing.assert_allclose(curve.precisions, theirs["precision"][place, :, label, 0, -1])
        np.testing.assert_array_equal(curve.scores, theirs["scores"][place, :, label, 0, -1])


@pytest.mark.parametrize(
    ("task", "kinds"),
    [("detect", {"box"}), ("instance", {"box", "mask"})],
)
def test_precision_recall__over_all_classes_has_the_average_precision_as_its_mean(task, kinds):
    comparison = compare(task, *CASE.packed(), len(CASE.classes))

    metrics = average_precision(comparison, CASE.classes).values
    curves = precision_recall(comparison, CASE.classes, 0.75)
    assert set(curves) == kinds
    for kind, of_classes in curves.items():
        mean = over_all_classes(of_classes)
        assert mean.precisions.mean() == pytest.approx(metrics[f"{kind}_ap75"])
        assert mean.scores is None


def test_precision_recall__of_rotated_boxes_by_hand():
    # Recall 1/3, 1/3, 2/3; precision 1, 1/2, 2/3, and 2/3 is the best from the second on. The
    # difficult one is passed over.
    curve = precision_recall(ROTATED, ("ship",))["rotated"]["ship"]

    steps = [RECALLS <= 1 / 3, (RECALLS > 1 / 3) & (RECALLS <= 2 / 3), RECALLS > 2 / 3]
    np.testing.assert_allclose(curve.precisions, np.select(steps, [1, 2 / 3, 0]))
    np.testing.assert_allclose(curve.scores, np.select(steps, [0.9, 0.7, 0]), rtol=1e-6)


def test_precision_recall__of_rotated_boxes_without_detections_is_zero():
    comparison = compare("rotated", *rotated_set([(0, BOX, False)], []), 1)

    curve = precision_recall(comparison, ("ship",))["rotated"]["ship"]
    assert curve.precisions.tolist() == curve.scores.tolist() == [0.0] * 101


@pytest.mark.parametrize("instances", [[], [(0, BOX, True)]])
def test_precision_recall__has_no_curve_of_a_class_with_nothing_to_be_found(instances):
    comparison = compare("rotated", *rotated_set(instances, [(0, BOX, 0.5)]), 1)

    assert precision_recall(comparison, ("ship",)) == {"rotated": {}}


@pytest.mark.parametrize("iou", [0, 1, -0.5, 0.52, float("nan")])
def test_precision_recall__refuses_an_overlap_that_is_not_compared(iou):
    with pytest.raises(ValueError, match="overlap of a curve is one of COCO's"):
        precision_recall(ROTATED, ("ship",), iou)


def test_over_all_classes__refuses_curves_of_several_overlaps():
    lower, upper = (
        precision_recall(ROTATED, ("ship",), iou)["rotated"]["ship"] for iou in (0.5, 0.75)
    )

    with pytest.raises(ValueError, match=r"one overlap, got \[0.5, 0.75\]"):
        over_all_classes({"a": lower, "b": upper})
    with pytest.raises(ValueError, match="got no curve"):
        over_all_classes({})
