"""The assigner against recorded cases, against the formula written out, and its bounds."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes import input_priors
from tests.allocations import largest_tensor_bytes, peak_bytes
from tests.golden import golden_units
from training.assignment import (
    Assignment,
    ClassCosts,
    assign,
    centre_cost,
    inside_boxes,
    num_wanted,
    overlap_cost,
)
from training.losses import box_overlaps
from training.rotated_overlaps import rotated_overlaps
from training.targets import ImageTargets

TOPK = 13
#: Cases with candidates, of which every part of the cost is recorded.
COMPLETE = ["hbox", "hbox_duplicate_gt", "hbox_masks", "hbox_few_priors", "rbox"]
EMPTY = ["hbox_no_gt", "hbox_all_outside", "rbox_no_gt"]


class Case:
    """One recorded image."""

    def __init__(self, folder: Path, name: str) -> None:
        prefix = f"{name}_"
        self.recorded = {
            key.removeprefix(prefix): torch.from_numpy(values)
            for key, values in golden_units(folder, "assigner").items()
            if key.startswith(prefix)
        }
        self.priors = self.recorded["priors"][:, :3]
        self.logits = self.recorded["pred_logits"].T
        self.boxes = self.recorded["pred_bboxes"].T
        self.targets = ImageTargets(
            boxes=self.recorded["gt_bboxes"],
            labels=self.recorded["gt_labels"],
            centres=self.recorded.get("gt_centers"),
            masks=None,
        )

    def assigned(self) -> Assignment:
        return assign(self.priors, self.logits, self.boxes, self.targets, topk=TOPK)


def centres_of(targets: ImageTargets) -> Tensor:
    if targets.centres is not None:
        return targets.centres
    if targets.boxes.shape[1] == 5:
        return targets.boxes[:, :2]
    return (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2


def overlaps_of(targets: ImageTargets, boxes: Tensor) -> Tensor:
    if len(boxes) == 5:
        return rotated_overlaps(targets.boxes, boxes.T)
    return box_overlaps(targets.boxes.T[:, :, None], boxes[:, None])


@pytest.mark.parity
@pytest.mark.parametrize("name", COMPLETE + EMPTY)
def test_assign__is_the_recorded_assignment(shared_folder: Path, name: str) -> None:
    case = Case(shared_folder, name)
    found = case.assigned()
    inds = torch.zeros(len(case.priors), dtype=torch.long)
    inds[found.priors] = found.instances + 1
    labels = torch.full_like(inds, -1)
    labels[found.priors] = case.targets.labels[found.instances]
    # What an unassigned prior has there says whether the published code returned early.
    overlaps = torch.full((len(inds),), -1e8 if name in COMPLETE else 0.0)
    overlaps[found.priors] = found.overlaps
    assert inds.tolist() == case.recorded["gt_inds"].tolist()
    assert labels.tolist() == case.recorded["labels"].tolist()
    np.testing.assert_allclose(overlaps, case.recorded["max_overlaps"], rtol=1e-5, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize("name", COMPLETE)
def test_assignment__every_part_of_the_cost_is_the_recorded_one(
    shared_folder: Path, name: str
) -> None:
    case = Case(shared_folder, name)
    valid = inside_boxes(case.priors[:, :2].T, case.targets.boxes).any(dim=0)
    assert valid.tolist() == case.recorded["valid"].tolist()
    overlaps = overlaps_of(case.targets, case.boxes[:, valid])
    classes = ClassCosts.of(case.logits[:, valid])
    costs = {
        "ious": overlaps,
        "iou_cost": overlap_cost(overlaps),
        "cls_cost": classes.cost(case.targets.labels, overlaps),
        "center_cost": centre_cost(case.priors[valid].T, centres_of(case.targets)),
    }
    costs["cost"] = costs["cls_cost"] + costs["iou_cost"] + costs["center_cost"]
    for part, values in costs.items():
        # Overlaps near 0 stand in a logarithm.
        tolerance = 3e-4 if part in ("iou_cost", "cost") else 5e-6
        np.testing.assert_allclose(
            values.T, case.recorded[part], rtol=2e-5, atol=tolerance, err_msg=part
        )
    assert num_wanted(overlaps, TOPK).tolist() == case.recorded["dynamic_k"].tolist()


def scene(
    num_instances: int,
    *,
    rotated: bool = False,
    num_classes: int = 7,
    input_size: tuple[int, int] = (160, 192),
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, ImageTargets]:
    """Priors, logits, boxes and targets of one image, at random."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random)

    priors = input_priors(input_size)
    count = len(priors)
    height, width = input_size
    centres = uniform(0, 1, num_instances, 2) * torch.tensor([width, height])
    sides = uniform(2.0, 4.3, num_instances, 2).exp()
    points, distances = priors[:, :2].T, uniform(1.5, 4, 4, count).exp()
    if rotated:
        instances = torch.cat((centres, sides, uniform(-2, 2, num_instances, 1)), dim=1)
        shift, angle = uniform(-8, 8, 2, count), uniform(-1.57, 1.57, 1, count)
        boxes = torch.cat((points + shift, 2 * distances[:2], angle))
    else:
        instances = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)
        boxes = torch.cat((points - distances[:2], points + distances[2:]))
    logits = 3 * torch.randn(num_classes, count, generator=random)
    labels = torch.randint(0, num_classes, (num_instances,), generator=random)
    return priors, logits, boxes, ImageTargets(instances, labels, None, None)


def assign_by_the_formula(
    priors: Tensor, logits: Tensor, boxes: Tensor, targets: ImageTargets
) -> Assignment:
    """The published rule, written out with all of its tensors, classes included."""
    valid = inside_boxes(priors[:, :2].T, targets.boxes).any(dim=0).nonzero().squeeze(1)
    overlaps = overlaps_of(targets, boxes[:, valid])  # [g, v]
    onehot = F.one_hot(targets.labels, len(logits)).float()  # [g, c]
    soft = onehot[:, :, None] * overlaps[:, None]  # [g, c, v]
    scores = logits[:, valid].expand_as(soft)
    cross_entropy = F.binary_cross_entropy_with_logits(scores, soft, reduction="none")
    cost = (cross_entropy * (soft - scores.sigmoid()).abs() ** 2).sum(dim=1)
    cost += -torch.log(overlaps + 1e-7) * 3
    away = (priors[valid, :2] - centres_of(targets)[:, None]).norm(dim=2) / priors[valid, 2]
    cost += 10 ** (away - 3)

    taken = torch.zeros_like(cost, dtype=torch.bool)
    for instance in range(len(cost)):
        best = overlaps[instance].topk(min(TOPK, len(valid))).values
        wanted = max(int(best.sum()), 1)
        taken[instance, cost[instance].topk(wanted, largest=False).indices] = True
    contested = taken.sum(dim=0) > 1
    taken[:, contested] = False
    taken[cost.argmin(dim=0)[contested], contested.nonzero().squeeze(1)] = True
    columns, instances = taken.T.nonzero(as_tuple=True)
    return Assignment(valid[columns], instances, overlaps[instances, columns])


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("num_instances", [1, 5, 40, 150])
def test_assign__is_the_formula_written_out(num_instances: int, rotated: bool) -> None:
    inputs = scene(num_instances, rotated=rotated)
    expected = assign_by_the_formula(*inputs)
    found = assign(*inputs, topk=TOPK)
    assert found.priors.tolist() == expected.priors.tolist()
    assert found.instances.tolist() == expected.instances.tolist()
    assert torch.equal(found.overlaps, expected.overlaps)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("max_pairs", [1, 1000, 3000])
def test_assign__blocks_of_instances_give_the_same_to_the_bit(
    max_pairs: int, rotated: bool
) -> None:
    inputs = scene(60, rotated=rotated, seed=3)
    whole = assign(*inputs, topk=TOPK, max_pairs=2**30)
    for blocks, part in zip(assign(*inputs, topk=TOPK, max_pairs=max_pairs), whole, strict=True):
        assert torch.equal(blocks, part)


def test_assign__of_equal_instances_in_different_blocks_the_first_is_taken() -> None:
    priors, logits, boxes, targets = scene(1, seed=5)
    twice = ImageTargets(targets.boxes.repeat(3, 1), targets.labels.repeat(3), None, None)
    found = assign(priors, logits, boxes, twice, topk=TOPK, max_pairs=1)
    assert len(found.instances) > 1
    assert not found.instances.any()


def test_assign__an_instance_around_no_prior_takes_one_from_another_instances_area() -> None:
    priors, logits, boxes, _ = scene(1)
    instances = torch.tensor([[8.0, 8, 120, 120], [49, 49, 51, 51]])
    found = assign(
        priors, logits, boxes, ImageTargets(instances, torch.tensor([0, 1]), None, None), topk=TOPK
    )
    assert 1 in found.instances.tolist()


def test_assign__priors_come_in_ascending_order() -> None:
    found = assign(*scene(40), topk=TOPK)
    assert all(one < other for one, other in pairwise(found.priors.tolist()))


def test_assign__where_all_costs_are_infinite_the_overlaps_are_right_still() -> None:
    priors, logits, boxes, targets = scene(4)
    # Masks' centres of mass far outside of their boxes.
    far = targets._replace(centres=torch.full((4, 2), 1e6))
    found = assign(priors, logits, boxes, far, topk=TOPK, max_pairs=1)
    overlaps = overlaps_of(targets, boxes)[found.instances, found.priors]
    # A prior that several take goes to the first of equals.
    assert not found.instances.all()
    assert overlaps.any()
    assert torch.equal(found.overlaps, overlaps)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rotated", [False, True])
def test_assign__predictions_that_are_not_finite_break_nothing(rotated: bool, value: float) -> None:
    """The trainer's business is to see the loss that follows; an exception here would hide it."""
    priors, logits, boxes, targets = scene(5, rotated=rotated)
    found = assign(
        priors, torch.full_like(logits, value), torch.full_like(boxes, value), targets, topk=TOPK
    )
    assert len(found.priors) >= 1


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("where", ["none", "outside"])
def test_assign__without_a_prior_inside_an_instance_all_is_background(
    where: str, rotated: bool
) -> None:
    priors, logits, boxes, targets = scene(0 if where == "none" else 3, rotated=rotated)
    outside = ImageTargets(targets.boxes.clone(), targets.labels, None, None)
    outside.boxes[:, : 2 if rotated else 4] -= 1000
    found = assign(priors, logits, boxes, outside, topk=TOPK)
    assert [len(part) for part in found] == [0, 0, 0]


def test_inside_boxes__upright_edges_do_not_belong_to_the_box() -> None:
    points = torch.tensor([[8.0, 16, 12], [8, 8, 12]])
    assert inside_boxes(points, torch.tensor([[8.0, 8, 16, 16]])).tolist() == [[False, False, True]]


def test_inside_boxes__of_rotated_boxes_ends_a_hundredth_before_the_edge() -> None:
    angle = 0.5
    along = torch.tensor([4.995, -4.995, 4.985, -4.985])
    points = torch.stack((along * math.cos(angle), along * math.sin(angle)))
    box = torch.tensor([[0, 0, 10, 2, angle]])
    assert inside_boxes(points, box).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("rotated", [False, True])
def test_assign__holds_no_tensor_of_priors_by_instances_by_classes(rotated: bool) -> None:
    num_classes, max_pairs = 40, 2**14
    inputs = scene(300, rotated=rotated, num_classes=num_classes)
    num_priors = len(inputs[0])
    largest = largest_tensor_bytes(lambda: assign(*inputs, topk=TOPK, max_pairs=max_pairs))
    # Four edges in float64 for every pair of a block, or float32 for every score.
    assert largest <= max(32 * max_pairs, 4 * num_classes * num_priors)
    assert largest < 4 * 300 * num_priors


@pytest.mark.parametrize("rotated", [False, True])
def test_assign__memory_does_not_grow_with_the_number_of_instances(rotated: bool) -> None:
    def peak(num_instances: int) -> int:
        inputs = scene(num_instances, rotated=rotated, input_size=(96, 96))
        return peak_bytes(lambda: assign(*inputs, topk=TOPK, max_pairs=2**11))

    few, many = peak(50), peak(300)
    assert many < 1.5 * few
