"""The stacked convolutions of a head, one tower per level, and the 1x1 that predicts from them."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import conv3x3


class SharedTowers(nn.Module):
    """Towers whose 3x3 convolutions are one and the same on every level.

    Batch norms are separate, since the statistics differ from level to level (section 3.2).
    """

    def __init__(self, channels: int, *, num_levels: int, num_convs: int) -> None:
        super().__init__()
        self.num_channels = channels
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(num_convs)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(num_convs))
            for _ in range(num_levels)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """One [n, c, h, w] per level -> the same shapes."""
        return [
            self._tower(norms, features) for norms, features in zip(self.norms, levels, strict=True)
        ]

    def _tower(self, norms: nn.Module, features: Tensor) -> Tensor:
        assert isinstance(norms, nn.ModuleList)
        for conv, norm in zip(self.convs, norms, strict=True):
            features = F.silu(norm(conv(features)))
        return features


class SeparateTowers(nn.Module):
    """Towers with convolutions of their own on every level."""

    def __init__(self, channels: int, *, num_levels: int, num_convs: int, depthwise: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(conv3x3(channels, channels, depthwise=depthwise) for _ in range(num_convs))
            )
            for _ in range(num_levels)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """One [n, c, h, w] per level -> the same shapes."""
        return [tower(features) for tower, features in zip(self.levels, levels, strict=True)]


class LevelPredictors(nn.Module):
    """A 1x1 convolution with bias per level; predictions leave in float32 whatever comes in.

    What follows (exponential, distances of hundreds of pixels, sigmoid) needs the precision.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 1) for _ in range(num_levels)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """One [n, in, h, w] per level -> one float32 [n, out, h, w] per level."""
        return [
            predict(features).float() for predict, features in zip(self.levels, levels, strict=True)
        ]


def towers(
    channels: int, *, num_levels: int, num_convs: int, share_conv: bool, depthwise: bool
) -> SharedTowers | SeparateTowers:
    """The towers of one branch of a head."""
    if share_conv:
        if depthwise:
            raise ValueError("shared towers have plain convolutions; depthwise ones are separate")
        return SharedTowers(channels, num_levels=num_levels, num_convs=num_convs)
    return SeparateTowers(channels, num_levels=num_levels, num_convs=num_convs, depthwise=depthwise)
