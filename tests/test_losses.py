"""Losses and their gradients against the recorded ones of the published implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.golden import golden_units
from training.losses import dice_loss, giou_loss, quality_focal_loss, rotated_iou_loss


def units(folder: Path, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(values)
        for name, values in golden_units(folder, "losses").items()
        if name.startswith(prefix)
    }


def row_losses(logits: Tensor, labels: Tensor, qualities: Tensor) -> Tensor:
    """The quality focal loss of each row [k, classes]; a label beyond the classes is background."""
    losses = []
    for row, label, quality in zip(logits, labels.tolist(), qualities, strict=True):
        positive = torch.tensor([label] if label < len(row) else [], dtype=torch.long)
        losses.append(quality_focal_loss(row, (positive,), quality.expand(len(positive))))
    return torch.stack(losses)


@pytest.mark.parity
def test_quality_focal_loss__is_the_recorded_one(shared_folder: Path) -> None:
    recorded = units(shared_folder, "qfl_")
    logits = recorded["logits"].requires_grad_()
    losses = row_losses(logits, recorded["labels"], recorded["scores"])
    (losses * recorded["weight"]).sum().backward()
    np.testing.assert_allclose(losses.detach(), recorded["none"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(logits.grad, recorded["grad_weighted_avg1"], rtol=1e-5, atol=1e-6)


def test_quality_focal_loss__of_a_map_is_the_sum_over_its_priors() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 4, 6, dtype=torch.float64) * 3
    targets = torch.zeros_like(maps)
    index = tuple(torch.tensor(part) for part in ([0, 0, 1], [4, 1, 4], [3, 3, 0], [5, 0, 2]))
    qualities = torch.tensor([0.3, 0.9, 1.0], dtype=torch.float64)
    targets[index] = qualities
    naive = F.binary_cross_entropy_with_logits(maps, targets, reduction="none")
    naive = naive * (targets - maps.sigmoid()) ** 2
    torch.testing.assert_close(quality_focal_loss(maps, index, qualities), naive.sum())


def test_quality_focal_loss__gradients_are_those_of_small_differences() -> None:
    torch.manual_seed(1)
    logits = (torch.randn(3, 4, dtype=torch.float64) * 4).requires_grad_()
    index = torch.tensor([0, 2]), torch.tensor([3, 1])
    qualities = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: quality_focal_loss(z, index, qualities), (logits,))


def test_quality_focal_loss__keeps_nothing_but_the_logits() -> None:
    logits = torch.randn(4, 5, 16, 16, requires_grad=True)
    index = tuple(torch.tensor([1]) for _ in range(4))
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr() if tensor.numel() > 1 else logits.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        quality_focal_loss(logits, index, torch.tensor([0.5]))
    assert set(kept) == {logits.data_ptr()}


def test_quality_focal_loss__without_positives_still_has_gradients() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    quality_focal_loss(logits, (nothing, nothing), torch.zeros(0)).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_quality_focal_loss__is_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    index = torch.tensor([0, 0]), torch.tensor([2, 3])
    loss = quality_focal_loss(logits, index, torch.tensor([1.0, 1.0]))
    loss.backward()
    assert logits.grad is not None
    # 200 for the score that should be 0, 200 for the one that should be 1.
    assert loss.item() == pytest.approx(400)
    assert logits.grad.tolist() == [[0, 1, -1, 0]]


#: What the recorded box and mask losses, not ours, are multiplied with.
WEIGHT = 2

PAIRED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "giou_": giou_loss,
    "riou_": rotated_iou_loss,
}


@pytest.mark.parity
@pytest.mark.parametrize("prefix", PAIRED)
def test_box_loss__is_the_recorded_one(shared_folder: Path, prefix: str) -> None:
    recorded = units(shared_folder, prefix)
    losses = PAIRED[prefix](recorded["pred"], recorded["target"])
    np.testing.assert_allclose(WEIGHT * losses, recorded["none"], rtol=1e-5, atol=3e-6)


@pytest.mark.parity
@pytest.mark.parametrize("prefix", PAIRED)
def test_box_loss__gradients_are_the_recorded_ones(shared_folder: Path, prefix: str) -> None:
    recorded = units(shared_folder, prefix)
    boxes = recorded["pred"].requires_grad_()
    total = WEIGHT * (PAIRED[prefix](boxes, recorded["target"]) * recorded["weight"]).sum()
    total.backward()
    torch.testing.assert_close(total.detach(), recorded["weighted_avg1"], rtol=1e-5, atol=0)
    np.testing.assert_allclose(boxes.grad, recorded["grad_weighted_avg1"], atol=2e-6)


@pytest.mark.parity
def test_rotated_iou_loss__gradients_are_those_of_small_differences(shared_folder: Path) -> None:
    recorded = units(shared_folder, "riou_")
    boxes = recorded["pred"].requires_grad_()
    loss = WEIGHT * rotated_iou_loss(boxes, recorded["target"])
    (loss * recorded["weight"]).sum().backward()
    assert boxes.grad is not None
    # At a prediction equal to its target the loss has a kink.
    smooth = (boxes != recorded["target"]).any(dim=1)
    assert (~smooth).sum() == 1
    np.testing.assert_allclose(boxes.grad[smooth], recorded["grad_finite_diff"][smooth], atol=2e-6)


@pytest.mark.parametrize("loss", PAIRED.values(), ids=PAIRED)
def test_box_loss__of_no_boxes_keeps_the_graph(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    width = 4 if loss is giou_loss else 5
    boxes = torch.zeros(0, width, requires_grad=True)
    loss(boxes, torch.zeros(0, width)).sum().backward()
    assert boxes.grad is not None


def test_giou_loss__of_boxes_without_area_is_finite() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [9, 9, 1, 1], [5, 5, 5, 5]], requires_grad=True)
    losses = giou_loss(boxes, torch.tensor([[5.0, 5, 5, 5], [1, 1, 9, 9], [0, 0, 8, 8]]))
    losses.sum().backward()
    assert boxes.grad is not None
    assert losses.isfinite().all()
    assert boxes.grad.isfinite().all()


@pytest.mark.parity
def test_dice_loss__and_its_gradients_are_the_recorded_ones(shared_folder: Path) -> None:
    recorded = units(shared_folder, "dice_")
    logits = recorded["logits"].requires_grad_()
    losses = WEIGHT * dice_loss(logits, recorded["target"].float())
    (losses.sum() / len(losses)).backward()
    np.testing.assert_allclose(losses.detach(), recorded["none"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad, recorded["grad_avg6"], rtol=1e-4, atol=1e-9)


def test_dice_loss__of_an_empty_mask_is_finite() -> None:
    logits = torch.full((1, 4, 4), -200.0, requires_grad=True)
    loss = dice_loss(logits, torch.zeros(1, 4, 4))
    loss.sum().backward()
    assert logits.grad is not None
    assert loss.tolist() == [1.0]
    assert logits.grad.isfinite().all()
