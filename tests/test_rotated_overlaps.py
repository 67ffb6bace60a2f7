"""Rotated overlaps in torch, against shapely, the recorded values, and the numpy counterpart."""

from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from torch import Tensor

from model.rotated_iou import rotated_corners
from tests.golden import golden_units
from training.rotated_overlaps import paired_rotated_iou, regularised, rotated_overlaps


def random_boxes(count: int, seed: int, spread: float = 60.0) -> Tensor:
    random = np.random.default_rng(seed)
    centres = random.uniform(0, spread, (count, 2))
    sides = np.exp(random.uniform(0.7, 4, (count, 2)))
    return torch.from_numpy(np.column_stack([centres, sides, random.uniform(-4, 4, count)]))


def shapely_iou(boxes_a: Tensor, boxes_b: Tensor) -> np.ndarray:
    """Paired."""
    a = shapely.polygons(rotated_corners(boxes_a.numpy()))
    b = shapely.polygons(rotated_corners(boxes_b.numpy()))
    return shapely.area(shapely.intersection(a, b)) / shapely.area(shapely.union(a, b))


def test_paired_rotated_iou__random_boxes_agree_with_shapely() -> None:
    a, b = random_boxes(1000, seed=1), random_boxes(1000, seed=2)
    np.testing.assert_allclose(paired_rotated_iou(a, b), shapely_iou(a, b), atol=1e-8)


@pytest.mark.parametrize("turn", [0.0, np.pi / 2, np.pi, -np.pi / 2])
def test_paired_rotated_iou__of_equal_rectangles_is_one(turn: float) -> None:
    boxes = random_boxes(200, seed=3)
    boxes[:50, 4] = 0
    same = boxes.clone()
    same[:, 4] += turn
    if abs(turn) == np.pi / 2:
        same[:, [2, 3]] = same[:, [3, 2]]
    np.testing.assert_allclose(paired_rotated_iou(boxes, same), 1, atol=1e-8)


@pytest.mark.parametrize(("shift", "expected"), [(0.5, 1 / 3), (1.0, 0), (-0.5, 1 / 3), (3.0, 0)])
def test_paired_rotated_iou__of_boxes_whose_edges_lie_on_one_line(
    shift: float, expected: float
) -> None:
    a = random_boxes(100, seed=4)
    a[:50, 4] = 0
    b = a.clone()
    b[:, 0] += shift * a[:, 2] * torch.cos(a[:, 4])
    b[:, 1] += shift * a[:, 2] * torch.sin(a[:, 4])
    np.testing.assert_allclose(paired_rotated_iou(a, b), expected, atol=1e-8)


def test_paired_rotated_iou__gradients_are_those_of_small_differences() -> None:
    a, b = random_boxes(12, seed=5, spread=20), random_boxes(12, seed=6, spread=20)
    assert (paired_rotated_iou(a, b) > 0.01).sum() > 6
    assert torch.autograd.gradcheck(
        paired_rotated_iou, (a.requires_grad_(), b.requires_grad_()), eps=1e-6, atol=1e-6
    )


DEGENERATE = [
    (5, 5, 0, 0, 0),
    (5, 5, 0, 4, 0.3),
    (5, 5, 4, 0, 0),
    (5, 5, -4, 4, 0.3),
    (5, 5, 10, 10, 0),
    (5, 5, 10, 10, np.pi / 2),
    (5, 5, 10, 10, 1e-170),
    (5, 5, 1e-30, 1e30, 0),
    (1e7, -1e7, 3, 3, 1.0),
]


def test_paired_rotated_iou__degenerate_boxes_have_finite_values_and_gradients() -> None:
    boxes = torch.tensor(DEGENERATE, dtype=torch.float64)
    count = len(boxes)
    a = boxes.repeat_interleave(count, dim=0).requires_grad_()
    b = boxes.repeat(count, 1).requires_grad_()
    overlaps = paired_rotated_iou(a, b)
    overlaps.sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    finite = [each.isfinite().all().item() for each in (overlaps, a.grad, b.grad)]
    assert finite == [True, True, True]


def test_paired_rotated_iou__of_a_box_without_area_is_zero() -> None:
    empty = torch.tensor(DEGENERATE[:4], dtype=torch.float32)
    around = torch.tensor([[5.0, 5, 10, 10, 0]]).expand(4, 5)
    assert not paired_rotated_iou(empty, around).any()


def test_paired_rotated_iou__is_in_float64_under_autocast() -> None:
    a, b = random_boxes(20, seed=7), random_boxes(20, seed=8)
    expected = paired_rotated_iou(a.float(), b.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = paired_rotated_iou(a.float(), b.float())
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


def test_rotated_overlaps__are_those_of_all_pairs() -> None:
    a, b = random_boxes(150, seed=9, spread=300), random_boxes(170, seed=10, spread=300)
    expected = paired_rotated_iou(a.repeat_interleave(len(b), dim=0), b.repeat(len(a), 1)).reshape(
        150, 170
    )
    overlaps = rotated_overlaps(a, b)
    np.testing.assert_allclose(overlaps, expected, atol=1e-7)
    assert 0.005 < (overlaps > 0).float().mean() < 0.5


def test_rotated_overlaps__only_pairs_within_reach_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = []

    def counting(a: Tensor, b: Tensor) -> Tensor:
        computed.append(len(a))
        return paired_rotated_iou(a, b)

    monkeypatch.setattr("training.rotated_overlaps.paired_rotated_iou", counting)
    # Ten boxes in a row, 10 pixels from one to the next, with a half diagonal of 5.66.
    row = torch.tensor([[10.0 * i, 0, 8, 8, 0.1 * i] for i in range(10)])
    rotated_overlaps(row, row)
    assert sum(computed) == 10 + 2 * 9


def test_rotated_overlaps__sides_below_a_thousandth_count_as_that() -> None:
    thin = torch.tensor([[5.0, 5, -3, 10, 0]])
    around = torch.tensor([[5.0, 5, 10, 10, 0]])
    np.testing.assert_allclose(rotated_overlaps(thin, around), [[1e-4]], rtol=1e-5)


@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (0, 0)])
def test_rotated_overlaps__of_no_boxes_are_empty(first: int, second: int) -> None:
    overlaps = rotated_overlaps(random_boxes(first, seed=1), random_boxes(second, seed=2))
    assert overlaps.shape == (first, second)


@pytest.mark.parity
def test_rotated_overlaps__are_the_recorded_ones(shared_folder: Path) -> None:
    units = golden_units(shared_folder, "losses")
    overlaps = rotated_overlaps(
        torch.from_numpy(units["riou_pred"][:20]), torch.from_numpy(units["riou_target"][:30])
    )
    np.testing.assert_allclose(overlaps, units["rbbox_overlaps_20x30"], atol=2e-6)


def test_regularised__are_the_same_rectangles_with_the_longer_side_first() -> None:
    boxes = random_boxes(300, seed=11)
    regular = regularised(boxes)
    assert (regular[:, 2] >= regular[:, 3]).all()
    assert ((regular[:, 4] >= -np.pi / 2) & (regular[:, 4] < np.pi / 2)).all()
    np.testing.assert_allclose(paired_rotated_iou(boxes, regular), 1, atol=1e-8)
