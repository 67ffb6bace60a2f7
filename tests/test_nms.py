import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

import model.nms
from model.nms import nms, rotated_nms
from model.rotated_iou import rotated_corners


def greedy(scores, labels, overlap_above_threshold, class_agnostic):
    """Suppression as the textbook has it, one box after the other."""
    kept: list[int] = []
    for box in np.argsort(-np.asarray(scores), kind="stable").tolist():
        if not any(
            (class_agnostic or labels[better] == labels[box])
            and overlap_above_threshold(better, box)
            for better in kept
        ):
            kept.append(box)
    return kept


def upright_overlap(boxes, threshold):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    shapes = shapely.box(*np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4).T)
    shapes[(boxes[:, 2:] <= boxes[:, :2]).any(axis=1)] = shapely.Polygon()
    return shapely_overlap(shapes, threshold)


def rotated_overlap(boxes, threshold):
    return shapely_overlap(shapely.polygons(rotated_corners(boxes)), threshold)


def shapely_overlap(shapes, threshold):
    def above(a, b):
        common = shapely.area(shapely.intersection(shapes[a], shapes[b]))
        union = shapely.area(shapes[a]) + shapely.area(shapes[b]) - common
        return common > threshold * union and common > 0

    return above


def random_upright_boxes(count, seed, side=100):
    random = np.random.default_rng(seed)
    corners, sides = random.uniform(0, side, (count, 2)), random.uniform(2, 30, (count, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32), random


def random_rotated_boxes(count, seed, side=100):
    random = np.random.default_rng(seed)
    columns = [
        random.uniform(0, side, (count, 2)),
        random.uniform(2, 30, (count, 2)),
        random.uniform(-2, 2, count),
    ]
    return np.column_stack(columns).astype(np.float32), random


@pytest.fixture
def geometry(shared_folder):
    return dict(np.load(shared_folder / "reference/golden/units/geometry.npz"))


@pytest.mark.parity
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_nms__agrees_with_the_reference(geometry, class_agnostic):
    boxes, scores, labels = (geometry[f"nms_{name}"] for name in ("boxes", "scores", "labels"))

    kept = nms(boxes, scores, labels, 0.65, class_agnostic=class_agnostic)

    expected = geometry["nms_keep_065_agnostic" if class_agnostic else "nms_keep_065"]
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parity
def test_rotated_nms__agrees_with_the_reference(geometry):
    scores, labels = geometry["nms_scores"][:200], geometry["nms_labels"][:200]

    kept = rotated_nms(geometry["rnms_boxes"], scores, labels, 0.1)

    np.testing.assert_array_equal(kept, geometry["rnms_keep_01"])


# Whole coordinates and few scores make ties; corners in any order make boxes without area.
coordinate = st.integers(-3, 12)
candidate = st.tuples(
    coordinate,
    coordinate,
    coordinate,
    coordinate,
    st.sampled_from([0.2, 0.5, 0.9]),
    st.integers(0, 2),
)


@settings(deadline=None)
@given(st.lists(candidate, max_size=20), st.sampled_from([0.0, 0.13, 0.45, 0.71]), st.booleans())
def test_nms__agrees_with_one_box_after_the_other(candidates, threshold, class_agnostic):
    table = np.array(candidates, np.float64).reshape(-1, 6)
    boxes, scores, labels = table[:, :4], table[:, 4], table[:, 5].astype(np.int32)

    kept = nms(boxes, scores, labels, threshold, class_agnostic=class_agnostic)

    above = upright_overlap(boxes, threshold)
    assert kept.tolist() == greedy(scores, labels, above, class_agnostic)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 30, width=32),
            st.floats(0, 30, width=32),
            st.floats(1, 20, width=32),
            st.floats(1, 20, width=32),
            st.sampled_from([0.0, 0.4, 1.0, -0.7]),
            st.sampled_from([0.2, 0.5, 0.9]),
            st.integers(0, 2),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_rotated_nms__agrees_with_one_box_after_the_other(candidates, class_agnostic):
    table = np.array(candidates, np.float64).reshape(-1, 7)
    boxes, scores, labels = table[:, :5], table[:, 5], table[:, 6].astype(np.int32)
    # No whole fraction, which equal boxes at a distance could meet exactly.
    threshold = 0.1234567

    kept = rotated_nms(boxes, scores, labels, threshold, class_agnostic=class_agnostic)

    above = rotated_overlap(boxes, threshold)
    assert kept.tolist() == greedy(scores, labels, above, class_agnostic)


@pytest.mark.parametrize("limits", [(128, 2**20), (16, 2**20), (128, 1000)])
@pytest.mark.parametrize("rotated", [False, True])
def test_suppression__of_several_blocks_agrees_with_one_box_after_the_other(
    monkeypatch, limits, rotated
):
    monkeypatch.setattr(model.nms, "_BLOCK", limits[0])
    monkeypatch.setattr(model.nms, "_MAX_PAIRS", limits[1])
    boxes, random = (random_rotated_boxes if rotated else random_upright_boxes)(400, seed=1)
    scores, labels = random.random(400, np.float32), random.integers(0, 3, 400)

    kept = (rotated_nms if rotated else nms)(boxes, scores, labels, 0.1)

    above = (rotated_overlap if rotated else upright_overlap)(boxes, 0.1)
    assert kept.tolist() == greedy(scores, labels, above, class_agnostic=False)
    assert len(kept) < 300


@pytest.mark.parametrize("suppress", [nms, rotated_nms])
def test_suppression__max_kept_gives_the_best_of_all(suppress):
    boxes, random = (random_upright_boxes if suppress is nms else random_rotated_boxes)(300, seed=2)
    scores, labels = random.random(300, np.float32), random.integers(0, 3, 300)

    kept = suppress(boxes, scores, labels, 0.5, max_kept=20)

    assert kept.tolist() == suppress(boxes, scores, labels, 0.5)[:20].tolist()


@pytest.mark.parametrize(("suppress", "columns"), [(nms, 4), (rotated_nms, 5)])
def test_suppression__of_nothing_is_nothing(suppress, columns):
    assert suppress(np.zeros((0, columns)), [], [], 0.5).tolist() == []


@pytest.mark.parametrize(
    ("suppress", "box"), [(nms, [10, 10, 20, 20]), (rotated_nms, [10, 10, 8, 4, 0.3])]
)
def test_suppression__of_equal_boxes_keeps_the_best_and_of_equal_scores_the_first(suppress, box):
    boxes, labels = [box] * 4, [0] * 4

    assert suppress(boxes, [0.1, 0.9, 0.5, 0.2], labels, 0.5).tolist() == [1]
    assert suppress(boxes, [0.5, 0.5, 0.5, 0.5], labels, 0.5).tolist() == [0]


@pytest.mark.parametrize(
    ("suppress", "empty"), [(nms, [12, 12, 12, 15]), (rotated_nms, [12, 12, 0, 5, 0.3])]
)
def test_suppression__boxes_without_area_neither_fall_nor_strike_out(suppress, empty):
    whole = [10, 10, 20, 20] if suppress is nms else [12, 12, 10, 10, 0]

    kept = suppress([empty, whole, empty, empty], [0.9, 0.8, 0.7, 0.6], [0] * 4, 0)

    assert kept.tolist() == [0, 1, 2, 3]


def test_nms__negative_coordinates_do_not_let_classes_meet():
    # Shifted by the largest coordinate alone, the second box would lie on the first.
    boxes = [[0, 0, 10, 10], [-11, -11, -1, -1]]

    assert nms(boxes, [0.9, 0.8], [0, 1], 0.5).tolist() == [0, 1]


def test_nms__an_overlap_at_the_threshold_does_not_count():
    halves = [[0, 0, 2, 1], [0, 0, 1, 1]]

    assert nms(halves, [0.9, 0.8], [0, 0], 0.5).tolist() == [0, 1]
    assert nms(halves, [0.9, 0.8], [0, 0], 0.49).tolist() == [0]
