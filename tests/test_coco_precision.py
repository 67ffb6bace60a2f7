"""COCO's figures of boxes and masks: pycocotools' own, from files as everybody writes them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.coco_cases import STATISTICS, CocoCase, coco_case
from training.evaluation.coco_comparison import CocoKind, coco_tables, mask_areas
from training.evaluation.coco_precision import coco_precision
from training.evaluation.instances import Found, Truth

KINDS: tuple[CocoKind, ...] = ("box", "mask")


def degenerate_case(seed: int) -> CocoCase:
    """Areas on the border of two sizes, boxes without area, masks without pixels, equal scores."""
    case = coco_case(seed, num_images=12, num_classes=3, num_labelled=2)
    random = np.random.default_rng(seed)

    def some() -> bool:
        return random.random() < 0.15

    for each in [*case.data_set["annotations"], *case.results]:
        height, width = each["segmentation"]["size"]
        if some():
            each["segmentation"]["counts"] = nothing_in(height, width)
        if some():
            each["bbox"] = [*each["bbox"][:2], 0.0, 8.0]
        elif some():
            each["bbox"] = [*each["bbox"][:2], 32.0, 32.0]
    for each in case.data_set["annotations"]:
        if some():
            each["area"] = float(random.choice([0, 32**2, 96**2]))
    for each in case.results:
        each["score"] = 0.5
    return case


def nothing_in(height: int, width: int) -> str:
    return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))["counts"].decode()


#: What is compared, each of several seeds.
CASES: dict[str, Callable[[int], CocoCase]] = {
    "80 classes": coco_case,
    "one class": lambda seed: coco_case(seed, num_images=12, num_classes=1, num_labelled=1),
    "over 100 detections of a class in an image": lambda seed: coco_case(
        seed,
        num_images=6,
        num_classes=2,
        num_labelled=2,
        instances_per_image=20,
        detections_per_image=260,
    ),
    "degenerate shapes and equal scores": degenerate_case,
    "a few instances": lambda seed: coco_case(
        seed, num_images=6, num_classes=9, num_labelled=5, instances_per_image=1
    ),
}


def ours(kind: CocoKind, truth: Truth, found: Found, num_classes: int) -> np.ndarray:
    """The statistics as pycocotools orders them, -1 where there is nothing to be found."""
    tables = coco_tables(kind, truth, found, num_classes)
    figures = [coco_precision(each) for each in tables.values()]
    return np.array(
        [np.mean([each[name] for each in figures if name in each] or -1) for name in STATISTICS]
    )


def subset(rows: np.ndarray, instances):
    """These rows of a Truth or a Found."""
    names = {"images", "labels", "boxes", "areas", "ignored", "scores"} & set(vars(instances))
    masks = tuple(instances.masks[row] for row in np.arange(len(instances))[rows])
    return replace(
        instances, masks=masks, **{name: getattr(instances, name)[rows] for name in names}
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_coco_precision__is_pycocotools_own(case, seed, kind):
    case = case(seed)

    theirs = case.by_pycocotools(kind).stats
    assert 0 < theirs[0] < 0.95
    np.testing.assert_allclose(
        ours(kind, *case.packed(), len(case.classes)), theirs, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_coco_precision__of_each_class_is_pycocotools_own(kind):
    case = coco_case(5, num_classes=12, num_labelled=10)

    evaluation = case.by_pycocotools(kind)
    precision = evaluation.eval["precision"][..., 0, -1].mean(axis=(0, 1))
    recall = evaluation.eval["recall"][..., 0, -1].mean(axis=0)
    tables = coco_tables(kind, *case.packed(), len(case.classes))
    figures = {label: coco_precision(each) for label, each in tables.items()}
    assert sorted(figures) == np.flatnonzero(precision >= 0).tolist() == list(range(1, 10))
    for label, of_class in figures.items():
        assert of_class["ap"] == pytest.approx(precision[label], abs=1e-9)
        assert of_class["ar100"] == pytest.approx(recall[label], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_coco_tables__of_each_class_are_pycocotools_own(kind):
    case = coco_case(6, num_classes=4, num_labelled=4)

    theirs = case.by_pycocotools(kind).eval
    tables = coco_tables(kind, *case.packed(), len(case.classes))
    for label, each in tables.items():
        np.testing.assert_allclose(each.precision, theirs["precision"][:, :, label, :, -1])
        np.testing.assert_array_equal(each.scores, theirs["scores"][:, :, label, :, -1])
        np.testing.assert_allclose(each.recall, theirs["recall"][:, label])


def without_crowds(truth: Truth, found: Found) -> tuple[Truth, Found]:
    return replace(truth, ignored=np.zeros(len(truth), bool)), found


def with_areas_of_boxes(truth: Truth, found: Found) -> tuple[Truth, Found]:
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    return replace(truth, areas=sides.prod(axis=1).astype(np.float64) * 2), found


def with_equal_scores_in_reverse(truth: Truth, found: Found) -> tuple[Truth, Found]:
    return truth, subset(np.arange(len(found))[::-1], found)


def without_images_that_have_no_instance(truth: Truth, found: Found) -> tuple[Truth, Found]:
    return truth, subset(np.isin(found.images, truth.images), found)


def without_one_detection_in_twenty(truth: Truth, found: Found) -> tuple[Truth, Found]:
    return truth, subset(np.arange(len(found)) % 20 != 0, found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        without_crowds,
        with_areas_of_boxes,
        with_equal_scores_in_reverse,
        without_images_that_have_no_instance,
        without_one_detection_in_twenty,
    ],
)
def test_coco_precision__comparison_with_pycocotools_notices_a_change(kind, change):
    case = coco_case(0, num_classes=3, num_labelled=3)

    theirs = case.by_pycocotools(kind).stats
    changed = ours(kind, *change(*case.packed()), len(case.classes))
    assert np.abs(changed - theirs).max() > 1e-5


def test_coco_precision__comparison_notices_detections_beyond_the_hundredth():
    case = CASES["over 100 detections of a class in an image"](0)
    truth, found = case.packed()
    best = found.scores >= np.median(found.scores)

    theirs = case.by_pycocotools("box").stats
    assert np.abs(ours("box", truth, subset(~best, found), 2) - theirs).max() > 1e-2
    # Of 260 in an image and two classes, the hundredth of a class is below the median.
    assert np.bincount(found.images * 2 + found.labels).max() > 100


@pytest.mark.parametrize("kind", KINDS)
def test_coco_precision__of_more_than_255_instances_and_detections_of_a_class_in_an_image(kind):
    case = coco_case(
        1,
        num_images=5,
        num_classes=1,
        num_labelled=1,
        instances_per_image=300,
        detections_per_image=300,
    )

    np.testing.assert_allclose(
        ours(kind, *case.packed(), 1), case.by_pycocotools(kind).stats, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_coco_tables__says_nothing(kind, capfd):
    case = coco_case(0, num_images=6)

    coco_tables(kind, *case.packed(), len(case.classes))
    assert capfd.readouterr() == ("", "")


def test_mask_areas__of_more_masks_than_are_counted_at_once() -> None:
    pictures = np.asfortranarray(np.tri(600, dtype=np.uint8))
    masks = [coco_mask.encode(np.asfortranarray(row[:, None])) for row in pictures]
    assert mask_areas(masks) == list(range(1, 601))
