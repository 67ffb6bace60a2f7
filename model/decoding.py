"""From a head's maps to dense, decoded predictions: one column per prior.

The exported graph and the torch path of evaluation both go through here.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.boxes import decode_boxes, decode_rotated_boxes, input_priors
from model.heads.outputs import HeadOutputs


class DensePredictions(NamedTuple):
    """Every prior's prediction, for a batch. `p` counts the priors of all levels, finest first.

    `logits` [n, classes, p]. `boxes` [n, 4, p] xyxy, clamped to the input; or [n, 5, p] for
    rotated ones, not clamped. `kernels` [n, 169, p] and `mask_features` [n, 8, h, w] for
    instance models.
    """

    logits: Tensor
    boxes: Tensor
    kernels: Tensor | None
    mask_features: Tensor | None


class Decoder(nn.Module):
    """Decodes predictions for one input size, (height, width) in pixels."""

    priors: Tensor
    points: Tensor
    limits: Tensor

    def __init__(self, input_size: tuple[int, int]) -> None:
        super().__init__()
        height, width = input_size
        priors = input_priors(input_size)
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        self.register_buffer("priors", priors, persistent=False)
        self.register_buffer("points", priors[:, :2].T.contiguous(), persistent=False)
        self.register_buffer("limits", limits[:, None], persistent=False)

    def forward(self, outputs: HeadOutputs) -> DensePredictions:
        """Concatenate the levels and decode the boxes."""
        distances = _concatenate(outputs.distances)
        if outputs.angles:
            boxes = decode_rotated_boxes(self.points, distances, _concatenate(outputs.angles))
        else:
            boxes = decode_boxes(self.points, distances).clamp(min=0).minimum(self.limits)
        return DensePredictions(
            logits=_concatenate(outputs.logits),
            boxes=boxes,
            kernels=_concatenate(outputs.kernels) if outputs.kernels else None,
            mask_features=outputs.mask_features,
        )


def _concatenate(levels: list[Tensor]) -> Tensor:
    """One [n, c, h, w] per level -> [n, c, p]."""
    return torch.cat([level.flatten(2) for level in levels], dim=2)
