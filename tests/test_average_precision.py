"""The metrics of an evaluation, and the packed arrays that they come from."""

from dataclasses import replace

import numpy as np
import pytest

from model.config import Task
from tests.coco_cases import IOU_TYPES, STATISTICS, coco_case
from tests.rotated_sets import BOX, rotated_metrics, rotated_set
from training.evaluation.average_precision import Metrics, average_precision, primary_metric
from training.evaluation.comparison import compare
from training.evaluation.instances import Found, Truth
from training.evaluation.metric_titles import TITLES, TITLES_BY_SIZE, kinds_of

CASE = coco_case(0, num_classes=4, num_labelled=3)
CLASSES = CASE.classes
#: Of the first class there are only crowds, of the last nothing.
FOUND_CLASSES = {"class 1", "class 2"}


def measured(task: Task, truth: Truth, found: Found) -> Metrics:
    return average_precision(compare(task, truth, found, len(CLASSES)), CLASSES)


def no_detections(has_masks: bool = False) -> Found:
    return Found(
        images=np.zeros(0, np.int64),
        labels=np.zeros(0, np.int64),
        scores=np.zeros(0, np.float32),
        boxes=np.zeros((0, 4), np.float32),
        masks=() if has_masks else None,
    )


@pytest.mark.parametrize("kind", IOU_TYPES)
def test_average_precision__is_pycocotools_own(kind):
    values = measured("instance", *CASE.packed()).values

    ours = [values[f"{kind}_{name}"] for name in STATISTICS]
    np.testing.assert_allclose(ours, CASE.by_pycocotools(kind).stats, rtol=0, atol=1e-9)


def test_average_precision__has_boxes_alone_for_a_detector():
    metrics = measured("detect", *CASE.packed())

    assert set(metrics.values) == {f"box_{name}" for name in STATISTICS}


def test_average_precision__has_rotated_figures_by_size_too():
    large = (80, 80, 150, 100, 0.2)
    names = rotated_metrics([(0, BOX, False), (1, large, False)], [])

    assert set(names) == {
        "rotated_ap",
        "rotated_ap50",
        "rotated_ap75",
        "rotated_ap50_voc07",
        "rotated_ap_small",
        "rotated_ap_large",
    }


@pytest.mark.parametrize("task", ["instance", "rotated"])
def test_metric_titles__name_every_metric(task: Task):
    large = (80, 80, 150, 100, 0.2)
    rotated = rotated_set([(0, BOX, False), (1, large, False)], [])
    values = measured(task, *(rotated if task == "rotated" else CASE.packed())).values

    assert kinds_of(values) == (["rotated"] if task == "rotated" else ["box", "mask"])
    assert {name.partition("_")[2] for name in values} <= set(TITLES | TITLES_BY_SIZE)


def test_average_precision__leaves_out_a_class_that_is_never_to_be_found():
    truth, found = CASE.packed()

    assert (found.labels == 3).any()
    assert truth.ignored[truth.labels == 0].all()
    assert set(measured("detect", truth, found).per_class) == FOUND_CLASSES


def test_average_precision__is_the_mean_over_the_classes_that_have_it():
    metrics = measured("instance", *CASE.packed())

    for name, value in metrics.values.items():
        of_classes = [each[name] for each in metrics.per_class.values() if name in each]
        assert value == pytest.approx(np.mean(of_classes))


def test_average_precision__does_not_change_with_more_images():
    truth, found = CASE.packed()
    wider = replace(truth, image_sizes=np.concatenate([truth.image_sizes, np.full((500, 2), 9)]))

    metrics = measured("detect", wider, found)
    assert metrics.values == measured("detect", truth, found).values
    assert metrics.num_images == 524


def test_average_precision__without_detections_is_zero():
    truth, _ = CASE.packed()

    values = measured("instance", truth, no_detections(has_masks=True)).values
    assert set(values.values()) == {0.0}


def test_average_precision__of_rotated_boxes_without_detections_is_zero():
    assert set(rotated_metrics([(0, BOX, False)], []).values()) == {0.0}


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_average_precision__refuses_a_set_with_nothing_to_be_found(task):
    truth, _ = CASE.packed()
    crowds = replace(truth, ignored=np.ones(len(truth), bool))
    found = no_detections(has_masks=task == "instance")

    with pytest.raises(ValueError, match="nothing to be found in the validation images"):
        measured(task, crowds, found)


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_primary_metric__is_among_the_metrics(task):
    if task == "rotated":
        truth, found = rotated_set([(0, BOX, False)], [(0, BOX, 0.9)])
    else:
        truth, found = CASE.packed()

    assert primary_metric(task) in measured(task, truth, found).values


def test_found__joined_parts_do_not_depend_on_how_they_were_shared_out():
    _, found = CASE.packed()
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
