"""The layers that backbone, neck and heads are built of (CSPNeXt, arXiv 2212.07784 section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBNAct(nn.Module):
    """Convolution without bias, batch norm, SiLU. Padding keeps the size at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h / stride, w / stride]."""
        return F.silu(self.norm(self.conv(features)))


class DepthwiseSeparableConv(nn.Module):
    """A depthwise convolution, then a 1x1, each with batch norm and SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvBNAct(in_channels, in_channels, kernel, stride, groups=in_channels)
        self.pointwise = ConvBNAct(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h / stride, w / stride]."""
        return self.pointwise(self.depthwise(features))


def conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, depthwise: bool
) -> ConvBNAct | DepthwiseSeparableConv:
    """The family's 3x3: plain, or depthwise separable in nano."""
    if depthwise:
        return DepthwiseSeparableConv(in_channels, out_channels, 3, stride)
    return ConvBNAct(in_channels, out_channels, 3, stride)


class CSPNeXtBlock(nn.Module):
    """A 3x3, then a 5x5 depthwise separable convolution, with or without the identity."""

    def __init__(self, channels: int, *, add_identity: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, depthwise=depthwise)
        self.conv2 = DepthwiseSeparableConv(channels, channels, 5)
        self.add_identity = add_identity

    def forward(self, features: Tensor) -> Tensor:
        """[n, c, h, w] -> the same shape."""
        out = self.conv2(self.conv1(features))
        return out + features if self.add_identity else out


class ChannelAttention(nn.Module):
    """Scale each channel by a gate computed from its mean over the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[n, c, h, w] -> the same shape."""
        pooled = features.mean(dim=(2, 3), keepdim=True)
        return features * F.hardsigmoid(self.fc(pooled))


class CSPLayer(nn.Module):
    """Cross-stage partial layer: half of the channels through blocks, half past them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_blocks: int,
        add_identity: bool,
        attention: bool,
        depthwise: bool,
    ) -> None:
        super().__init__()
        middle = out_channels // 2
        self.main_conv = ConvBNAct(in_channels, middle, 1)
        self.short_conv = ConvBNAct(in_channels, middle, 1)
        self.blocks = nn.Sequential(
            *(
                CSPNeXtBlock(middle, add_identity=add_identity, depthwise=depthwise)
                for _ in range(num_blocks)
            )
        )
        self.attention = ChannelAttention(2 * middle) if attention else nn.Identity()
        self.final_conv = ConvBNAct(2 * middle, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h, w]."""
        main = self.blocks(self.main_conv(features))
        short = self.short_conv(features)
        # The main half stands first: published weights depend on the order.
        return self.final_conv(self.attention(torch.cat((main, short), dim=1)))


class SpatialPyramidPooling(nn.Module):
    """Max-pool at 5, 9 and 13 beside the identity, between two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels // 2, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (5, 9, 13))
        self.conv2 = ConvBNAct(channels // 2 * 4, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[n, c, h, w] -> the same shape."""
        features = self.conv1(features)
        return self.conv2(torch.cat((features, *(pool(features) for pool in self.pools)), dim=1))
