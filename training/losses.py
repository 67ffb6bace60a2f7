"""The losses as pure functions on float32 tensors: quality focal, GIoU, rotated IoU, Dice.

None of them is averaged or weighted here; that is the criterion's business.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.rotated_overlaps import paired_rotated_iou

#: Smallest area that the overlap of upright boxes divides by.
_MIN_AREA = 1e-6
#: Smallest rotated overlap: below, the loss is constant.
_MIN_ROTATED_IOU = 1e-6
_DICE_EPSILON = 5e-6


def quality_focal_loss(logits: Tensor, positives: tuple[Tensor, ...], qualities: Tensor) -> Tensor:
    """Quality focal loss (arXiv 2006.04388, equation 6, beta 2), summed over all of `logits`.

    Every logit has the target 0 but those at `positives`, one index [k] per dimension, none
    twice; theirs are `qualities` [k], which count as constants. Keeps nothing but the logits for
    the backward pass. Cannot be differentiated twice.
    """
    return _QualityFocal.apply(logits, qualities, *positives)


class _QualityFocal(torch.autograd.Function):
    """softplus(z) sigmoid(z)^2 everywhere, BCE(z, q) (q - sigmoid(z))^2 at the positives instead.

    By hand because automatic differentiation would keep several tensors of the logits' size.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, qualities: Tensor, *positives: Tensor) -> Tensor:
        ctx.save_for_backward(logits, qualities, *positives)
        own = logits[positives]
        sigmoid, softplus = own.sigmoid(), F.softplus(own)
        correction = _bce(own, qualities) * (qualities - sigmoid) ** 2 - softplus * sigmoid**2
        return (F.softplus(logits) * logits.sigmoid() ** 2).sum() + correction.sum()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, qualities, *rest = ctx.saved_tensors
        positives = tuple(rest)
        sigmoid = logits.sigmoid()
        grad = F.softplus(logits).mul_(1 - sigmoid).mul_(2).add_(sigmoid)
        grad = grad.mul_(sigmoid).mul_(sigmoid)
        own, p = logits[positives], sigmoid[positives]
        error = p - qualities
        grad[positives] = error * (error**2 + 2 * _bce(own, qualities) * p * (1 - p))
        return (grad * grad_output, None, *(None for _ in positives))


def _bce(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def box_overlaps(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes; both [4, ...], broadcast to one another."""
    intersection, union = _intersection_and_union(boxes_a, boxes_b)
    return intersection / union


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - generalised IoU (arXiv 1902.09630) of the pairs boxes [k, 4], targets [k, 4]: [k]."""
    a, b = boxes.T, targets.T
    intersection, union = _intersection_and_union(a, b)
    corners = torch.minimum(a[:2], b[:2]), torch.maximum(a[2:], b[2:])
    enclosing = (corners[1] - corners[0]).clamp(min=0).prod(dim=0).clamp(min=_MIN_AREA)
    return 1 - (intersection / union - (enclosing - union) / enclosing)


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas; the union is at least 1e-6. Inverted boxes have a signed area, as published."""
    width = torch.minimum(a[2], b[2]).sub(torch.maximum(a[0], b[0])).clamp(min=0)
    height = torch.minimum(a[3], b[3]).sub(torch.maximum(a[1], b[1])).clamp(min=0)
    intersection = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return intersection, (areas - intersection).clamp(min=_MIN_AREA)


def rotated_iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - IoU of the pairs boxes [k, 5], targets [k, 5]: float32 [k], computed in float64.

    Linear, and constant where boxes do not overlap, as published.
    """
    # In this order a prediction equal to its target, where the loss has a kink, gets the gradient
    # that the published code gives it.
    return 1 - paired_rotated_iou(targets, boxes).clamp(min=_MIN_ROTATED_IOU).float()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - Dice coefficient in the form of V-Net (arXiv 1606.04797): [k].

    `logits` [k, h, w], `targets` [k, h, w] of 0 and 1 in the same type.
    """
    p, t = logits.sigmoid().flatten(1), targets.flatten(1)
    common = (p * t).sum(dim=1)
    # Of zeros and ones, so that they are their own squares.
    total = (p * p).sum(dim=1) + t.sum(dim=1) + 2 * _DICE_EPSILON
    return 1 - 2 * common / total
