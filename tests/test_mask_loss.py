"""The mask networks and their loss: recorded values, chunks, gradients and memory."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.allocations import peak_bytes
from tests.golden import golden_units
from training.losses import dice_loss
from training.mask_loss import MaskPositives, mask_logits, mask_loss, positives_per_chunk
from training.targets import unpack_masks

SIZE = (24, 32)


def batch(
    counts: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[MaskPositives, Tensor, Tensor]:
    """Positives of some images, mask features with SIZE cells, and five packed masks."""
    torch.manual_seed(seed)
    count, (height, width) = sum(counts), SIZE
    places = torch.rand(count, 2) * torch.tensor([width * 8, height * 8])
    strides = 8 * 2 ** torch.randint(0, 3, (count, 1))
    positives = MaskPositives(
        kernels=(0.4 * torch.randn(count, 169, dtype=dtype)).requires_grad_(),
        priors=torch.cat((places, strides), dim=1).to(dtype),
        instances=torch.randint(0, 5, (count,)),
        counts=counts,
    )
    features = torch.randn(len(counts), 8, height, width, dtype=dtype).requires_grad_()
    masks = torch.randint(0, 256, (5, 2 * height, math.ceil(2 * width / 8)), dtype=torch.uint8)
    return positives, features, masks


def loss_at_once(positives: MaskPositives, features: Tensor, masks: Tensor) -> Tensor:
    """All positives together, by automatic differentiation and grouped convolutions."""
    height, width = SIZE
    images = torch.arange(len(positives.counts)).repeat_interleave(torch.tensor(positives.counts))
    ys, xs = torch.meshgrid(torch.arange(height) * 8, torch.arange(width) * 8, indexing="ij")
    x, y, stride = positives.priors[:, :, None, None].unbind(1)
    inputs = torch.stack(((x - xs) / (8 * stride), (y - ys) / (8 * stride)), dim=1)
    values = torch.cat((inputs, features[images]), dim=1).reshape(1, -1, height, width)
    w1, w2, w3, b1, b2, b3 = positives.kernels.split([80, 64, 8, 8, 8, 1], dim=1)
    count = len(images)
    values = F.conv2d(values, w1.reshape(-1, 10, 1, 1), b1.flatten(), groups=count).relu()
    values = F.conv2d(values, w2.reshape(-1, 8, 1, 1), b2.flatten(), groups=count).relu()
    logits = F.conv2d(values, w3.reshape(-1, 8, 1, 1), b3.flatten(), groups=count)
    logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear")[0]
    wanted = unpack_masks(masks[positives.instances], 2 * width)
    return dice_loss(logits, wanted.to(logits.dtype)).sum()


def in_chunks_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.mask_loss.positives_per_chunk", lambda *_: size)


@pytest.mark.parity
def test_mask_logits__are_the_recorded_ones(shared_folder: Path) -> None:
    units = {
        name: torch.from_numpy(values)
        for name, values in golden_units(shared_folder, "maskhead").items()
    }
    logits = mask_logits(units["kernels"], units["priors"][:, :3], units["mask_feat"])
    np.testing.assert_allclose(logits, units["logits_stride8"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_mask_loss__and_its_gradients_are_those_of_all_positives_at_once(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    positives, features, masks = batch((7, 0, 4), dtype=torch.float64)
    expected = loss_at_once(positives, features, masks)
    expected_grads = torch.autograd.grad(expected, (positives.kernels, features))
    in_chunks_of(chunk, monkeypatch)
    # Scaled, so that the incoming gradient counts.
    loss = 3 * mask_loss(positives, features, masks, chunk_mib=1)
    grads = torch.autograd.grad(loss, (positives.kernels, features))
    torch.testing.assert_close(loss, 3 * expected)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, 3 * wanted)


def test_mask_loss__without_positives_is_zero_with_gradients_of_zero() -> None:
    positives, features, masks = batch((0, 0))
    loss = mask_loss(positives, features, masks, chunk_mib=1)
    loss.backward()
    assert loss.item() == 0
    assert positives.kernels.grad is not None
    assert features.grad is not None
    assert not features.grad.any()


def test_mask_loss__without_gradients_is_the_same() -> None:
    positives, features, masks = batch((3, 2))
    expected = mask_loss(positives, features, masks, chunk_mib=1)
    with torch.no_grad():
        loss = mask_loss(positives, features, masks, chunk_mib=1)
    assert torch.equal(loss, expected.detach())


def test_mask_loss__is_in_float32_under_autocast() -> None:
    positives, features, masks = batch((3, 2))
    expected = mask_loss(positives, features, masks, chunk_mib=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mask_loss(positives, features, masks, chunk_mib=1), expected)


def peak_of(num_positives: int, chunk_mib: int) -> int:
    positives, features, masks = batch((num_positives,))

    def run() -> None:
        mask_loss(positives, features, masks, chunk_mib=chunk_mib).backward()

    return peak_bytes(run)


def test_mask_loss__memory_is_the_budget_and_what_is_kept() -> None:
    num_positives, chunk_mib = 200, 2
    assert positives_per_chunk(SIZE[0] * SIZE[1], chunk_mib) < num_positives / 10
    # Gradients: of all kernels, twice (scaled); of the mask features, three times.
    kept = 4 * (2 * num_positives * 169 + 3 * 8 * SIZE[0] * SIZE[1])
    assert peak_of(num_positives, chunk_mib) <= chunk_mib * 2**20 + kept


def test_positives_per_chunk__the_budget_is_used() -> None:
    num_cells, chunk_mib = SIZE[0] * SIZE[1], 2
    full = positives_per_chunk(num_cells, chunk_mib)
    assert peak_of(full, chunk_mib) > 0.8 * chunk_mib * 2**20


def test_positives_per_chunk__is_at_least_one() -> None:
    assert positives_per_chunk(10**9, 1) == 1
