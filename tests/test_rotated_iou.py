import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from model.rotated_iou import enclosing_boxes, rotated_corners, rotated_iou


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32)


def rotated_boxes() -> st.SearchStrategy[tuple[float, ...]]:
    side = numbers(0.5, 200)
    return st.tuples(numbers(-100, 100), numbers(-100, 100), side, side, numbers(-4, 4))


def shapely_iou(boxes_a, boxes_b):
    a = shapely.polygons(rotated_corners(boxes_a))
    b = shapely.polygons(rotated_corners(boxes_b))
    return shapely.area(shapely.intersection(a, b)) / shapely.area(shapely.union(a, b))


def random_boxes(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres, sides = random.uniform(0, 100, (count, 2)), np.exp(random.uniform(0, 5, (count, 2)))
    return np.column_stack([centres, sides, random.uniform(-4, 4, count)])


def test_rotated_iou__random_boxes_agree_with_shapely():
    # More pairs than are computed at a time.
    a, b = random_boxes(5000, seed=1), random_boxes(5000, seed=2)

    np.testing.assert_allclose(rotated_iou(a, b), shapely_iou(a, b), atol=1e-8)


@settings(deadline=None)
@given(rotated_boxes(), rotated_boxes())
def test_rotated_iou__any_pair_agrees_with_shapely(a, b):
    assert rotated_iou([a], [b])[0] == pytest.approx(shapely_iou([a], [b])[0], abs=1e-5)


@settings(deadline=None)
@given(rotated_boxes(), rotated_boxes())
def test_rotated_iou__is_symmetric(a, b):
    assert rotated_iou([a], [b])[0] == pytest.approx(rotated_iou([b], [a])[0], abs=1e-5)


@settings(deadline=None)
@given(rotated_boxes(), rotated_boxes(), numbers(-4, 4), numbers(-500, 500))
def test_rotated_iou__does_not_change_when_both_boxes_move_alike(a, b, turn_rad, shift):
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)

    def moved(box):
        cx, cy, width, height, angle = box
        return [cos * cx - sin * cy + shift, sin * cx + cos * cy, width, height, angle + turn_rad]

    expected = rotated_iou([a], [b])[0]
    assert rotated_iou([moved(a)], [moved(b)])[0] == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(rotated_boxes())
def test_rotated_iou__of_equal_rectangles_is_one(box):
    cx, cy, width, height, angle = box
    same = [
        box,
        (cx, cy, width, height, angle + np.pi),
        (cx, cy, height, width, angle + np.pi / 2),
    ]

    np.testing.assert_allclose(rotated_iou([box] * 3, same), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("shift", "expected"), [(0.5, 1 / 3), (1.0, 0), (-0.5, 1 / 3), (-1.0, 0), (5.0, 0)]
)
def test_rotated_iou__of_boxes_whose_edges_lie_on_one_line(shift, expected):
    a = random_boxes(100, seed=3)
    b = a.copy()
    b[:, 0] += shift * a[:, 2] * np.cos(a[:, 4])
    b[:, 1] += shift * a[:, 2] * np.sin(a[:, 4])

    np.testing.assert_allclose(rotated_iou(a, b), expected, atol=1e-8)


def test_rotated_iou__of_a_half_that_shares_three_edges():
    a = random_boxes(100, seed=4)
    b = a.copy()
    b[:, 2] /= 2
    b[:, 0] += a[:, 2] / 4 * np.cos(a[:, 4])
    b[:, 1] += a[:, 2] / 4 * np.sin(a[:, 4])

    np.testing.assert_allclose(rotated_iou(a, b), 0.5, atol=1e-8)


@pytest.mark.parametrize("empty", [(5, 5, 0, 4, 0.3), (5, 5, 4, 0, 0.3), (5, 5, -4, 4, 0.3)])
def test_rotated_iou__of_a_box_without_area_is_zero(empty):
    around = (5, 5, 10, 10, 0)

    assert rotated_iou([empty, around, empty], [around, empty, empty]).tolist() == [0, 0, 0]


def test_rotated_iou__of_no_pairs_is_empty():
    assert rotated_iou(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0,)


def test_rotated_iou__refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="2 with 1"):
        rotated_iou(np.ones((2, 5)), np.ones((1, 5)))


def test_rotated_corners__a_quarter_turn_is_clockwise_on_the_screen():
    [upright, turned] = rotated_corners([(10, 20, 6, 2, 0), (10, 20, 6, 2, np.pi / 2)])

    np.testing.assert_allclose(upright, [(7, 19), (13, 19), (13, 21), (7, 21)])
    np.testing.assert_allclose(turned, [(11, 17), (11, 23), (9, 23), (9, 17)])


def test_enclosing_boxes__touch_the_outermost_corners():
    boxes = random_boxes(100, seed=5)
    corners = rotated_corners(boxes)

    expected = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    np.testing.assert_allclose(enclosing_boxes(boxes), expected)
