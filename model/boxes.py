"""Pure functions on priors, boxes and rotated boxes, in torch.

Boxes are xyxy in pixels. Rotated boxes are (cx, cy, w, h, angle), the angle in radians, clockwise
positive with y down, as recorded from the published implementation.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import STRIDES


def level_priors(height: int, width: int, stride: int) -> Tensor:
    """Priors of one level of `height` x `width` cells: float32 [h * w, 3] of (x, y, stride).

    Row by row. They stand at the cells' top left corners, without a half-pixel offset.
    """
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float32) * stride,
        torch.arange(width, dtype=torch.float32) * stride,
        indexing="ij",
    )
    return torch.stack((xs, ys, torch.full_like(xs, stride)), dim=-1).reshape(-1, 3)


def input_priors(input_size: tuple[int, int], strides: Sequence[int] = STRIDES) -> Tensor:
    """Priors of every level for an input of (height, width) pixels: [p, 3], finest level first."""
    height, width = input_size
    return torch.cat([level_priors(height // s, width // s, s) for s in strides])


def decode_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Points (x, y) [2, p] and distances (l, t, r, b) [n, 4, p] -> boxes [n, 4, p]."""
    return torch.cat((points - distances[:, :2], points + distances[:, 2:]), dim=1)


def decode_rotated_boxes(points: Tensor, distances: Tensor, angles: Tensor) -> Tensor:
    """Points [2, p], distances [n, 4, p] in the box's frame, angles [n, 1, p] -> [n, 5, p].

    Angles come out in [-pi/2, pi/2); width and height are not exchanged, so w < h is possible.
    """
    cos, sin = torch.cos(angles), torch.sin(angles)
    left, top, right, bottom = distances.split(1, dim=1)
    along, across = (right - left) / 2, (bottom - top) / 2
    centres = points + torch.cat((along * cos - across * sin, along * sin + across * cos), dim=1)
    half_turn = angles + math.pi / 2
    wrapped = half_turn - torch.floor(half_turn / math.pi) * math.pi - math.pi / 2
    return torch.cat((centres, left + right, top + bottom, wrapped), dim=1)
