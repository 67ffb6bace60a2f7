"""The loss of the instances' masks, in memory that does not grow with their number.

Every positive prior brings a mask network of its own (`model.mask_assembly` draws with it in
serving). Its activations are some hundred times as large as its weights, so that positives are
taken in chunks: each gives its loss and, at once, its gradients; nothing else of it is kept.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config import STRIDES
from training.losses import dice_loss
from training.targets import unpack_masks

#: Channels of the mask features and of the two hidden layers.
_CHANNELS = 8
#: Sizes of the parts of a kernel: the weights of all layers, then their biases.
_KERNEL_PARTS = (_CHANNELS * (_CHANNELS + 2), _CHANNELS**2, _CHANNELS, _CHANNELS, _CHANNELS, 1)
#: Pixels of the input per cell of the mask features.
_STRIDE = STRIDES[0]
#: The loss is taken at stride 4.
_ENLARGEMENT = 2
#: Bytes that a positive takes, at the most, per cell of the mask features, backward included.
_BYTES_PER_CELL = 176
#: A CPU takes smaller chunks, which are faster there: they stay near its caches.
_MAX_CPU_CHUNK_MIB = 16


class MaskPositives(NamedTuple):
    """k positive priors, image by image; image i owns the next `counts[i]`.

    `kernels` float32 [k, 169]; `priors` [k, 3] of (x, y, stride); `instances` int64 [k]: the rows
    of their masks in the batch's targets.
    """

    kernels: Tensor
    priors: Tensor
    instances: Tensor
    counts: tuple[int, ...]


def mask_loss(
    positives: MaskPositives, mask_features: Tensor, masks: Tensor, *, chunk_mib: int
) -> Tensor:
    """Dice loss of every positive's mask, summed: a scalar.

    `mask_features` float32 [n, 8, h, w] at stride 8; `masks` as `Targets.masks` has them. Holds at
    most `chunk_mib` MiB of activations, or those of one positive. Without positives it is 0, with
    gradients of 0. Cannot be differentiated twice.
    """
    _, _, height, width = mask_features.shape
    if mask_features.device.type == "cpu":
        chunk_mib = min(chunk_mib, _MAX_CPU_CHUNK_MIB)
    chunk = positives_per_chunk(height * width, chunk_mib)
    with torch.autocast(mask_features.device.type, enabled=False):
        return _ChunkedMaskLoss.apply(positives.kernels, mask_features, positives, masks, chunk)


def positives_per_chunk(num_cells: int, chunk_mib: int) -> int:
    """How many positives fit into the budget, at least one, for mask features of so many cells."""
    return max(1, chunk_mib * 2**20 // (num_cells * _BYTES_PER_CELL))


def mask_logits(kernels: Tensor, priors: Tensor, features: Tensor) -> Tensor:
    """The mask networks `kernels` [k, 169] of `priors` [k, 3] on `features` [8, h, w]: [k, h, w].

    Three 1x1 convolutions, ReLU between them. Their input is the position relative to the prior,
    (prior - cell) / (8 strides), x then y, and the eight features. The position depends on the row
    or the column alone, so that its part of the first layer is computed apart and exactly.
    """
    _, height, width = features.shape
    w1, w2, w3, b1, b2, b3 = kernels.split(_KERNEL_PARTS, dim=1)
    of_place, of_features = w1.view(-1, _CHANNELS, _CHANNELS + 2).split((2, _CHANNELS), dim=2)
    columns = torch.arange(width, device=features.device) * _STRIDE
    rows = torch.arange(height, device=features.device) * _STRIDE
    x, y, stride = priors.unsqueeze(-1).unbind(1)
    place_x, place_y = (x - columns) / (8 * stride), (y - rows) / (8 * stride)

    hidden = of_features.reshape(-1, _CHANNELS) @ features.flatten(1)
    hidden = hidden.view(-1, _CHANNELS, height, width)
    hidden += (of_place[..., :1] * place_x.unsqueeze(1)).unsqueeze(2)
    hidden += (of_place[..., 1:] * place_y.unsqueeze(1) + b1.unsqueeze(2)).unsqueeze(3)
    hidden = hidden.relu_().flatten(2)
    hidden = torch.baddbmm(b2.unsqueeze(2), w2.view(-1, _CHANNELS, _CHANNELS), hidden).relu_()
    return torch.baddbmm(b3.unsqueeze(2), w3.unsqueeze(1), hidden).view(-1, height, width)


class _ChunkedMaskLoss(torch.autograd.Function):
    """Chunk by chunk the loss and its gradients, which `backward` has only to scale."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Tensor,
        mask_features: Tensor,
        positives: MaskPositives,
        masks: Tensor,
        chunk: int,
    ) -> Tensor:
        total = mask_features.new_zeros(())
        kernel_grads, feature_grads = torch.zeros_like(kernels), torch.zeros_like(mask_features)
        wants_grads = any(ctx.needs_input_grad)
        for image, part in _chunks(positives.counts, chunk):
            own = kernels[part].detach().requires_grad_(wants_grads)
            features = mask_features[image].detach().requires_grad_(wants_grads)
            with torch.set_grad_enabled(wants_grads):
                logits = mask_logits(own, positives.priors[part], features)
                loss = _dice(logits, masks[positives.instances[part]])
            total += loss.detach()
            if wants_grads:
                kernel_grads[part], grad = torch.autograd.grad(loss, (own, features))
                feature_grads[image] += grad
        ctx.save_for_backward(kernel_grads, feature_grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, ...]:
        kernel_grads, feature_grads = ctx.saved_tensors
        return kernel_grads * grad_output, feature_grads * grad_output, None, None, None


def _dice(logits: Tensor, packed_masks: Tensor) -> Tensor:
    """Summed loss of logits [k, h, w] at stride 8 and packed masks at stride 4."""
    logits = F.interpolate(
        logits.unsqueeze(1), scale_factor=_ENLARGEMENT, mode="bilinear", align_corners=False
    ).squeeze(1)
    masks = unpack_masks(packed_masks, logits.shape[-1])
    return dice_loss(logits, masks.to(logits.dtype)).sum()


def _chunks(counts: tuple[int, ...], size: int) -> Iterator[tuple[int, slice]]:
    """Parts of at most `size` positives with the image that they belong to."""
    stop = 0
    for image, count in enumerate(counts):
        start, stop = stop, stop + count
        for first in range(start, stop, size):
            yield image, slice(first, min(first + size, stop))
