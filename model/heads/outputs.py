"""What a head gives, level by level, before decoding."""

from typing import NamedTuple

from torch import Tensor


class HeadOutputs(NamedTuple):
    """Lists hold one float32 tensor per level, finest first; parts that a task lacks are empty.

    `logits`: [n, classes, h, w]. `distances`: left, top, right, bottom from the prior, in pixels
    of the input, [n, 4, h, w]. `angles`: radians, [n, 1, h, w] (rotated). `kernels`: the weights
    of each prior's mask network, [n, 169, h, w], and `mask_features` [n, 8, h, w] at the finest
    level (instance).
    """

    logits: list[Tensor]
    distances: list[Tensor]
    angles: list[Tensor]
    kernels: list[Tensor]
    mask_features: Tensor | None
