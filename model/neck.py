"""CSPNeXtPAFPN, the neck: features flow from coarse to fine, then back (section 3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ConvBNAct, CSPLayer, conv3x3


class CSPNeXtPAFPN(nn.Module):
    """Path aggregation over three levels; every output has the same number of channels.

    `top_down` and `reduce` count from the coarsest level, `bottom_up` and `downsample` from the
    finest, each in the order in which they run.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, num_blocks: int, depthwise: bool
    ) -> None:
        super().__init__()
        fine, middle, coarse = in_channels

        def csp(inputs: int, outputs: int) -> CSPLayer:
            return CSPLayer(
                inputs,
                outputs,
                num_blocks=num_blocks,
                add_identity=False,
                attention=False,
                depthwise=depthwise,
            )

        self.reduce = nn.ModuleList([ConvBNAct(coarse, middle, 1), ConvBNAct(middle, fine, 1)])
        self.top_down = nn.ModuleList([csp(2 * middle, middle), csp(2 * fine, fine)])
        self.downsample = nn.ModuleList(
            conv3x3(channels, channels, stride=2, depthwise=depthwise)
            for channels in (fine, middle)
        )
        self.bottom_up = nn.ModuleList([csp(2 * fine, middle), csp(2 * middle, coarse)])
        self.out = nn.ModuleList(
            conv3x3(channels, out_channels, depthwise=depthwise) for channels in in_channels
        )

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """C3, C4, C5 -> P3, P4, P5, each [n, out_channels, h, w] at its own stride."""
        c3, c4, c5 = features
        reduced5 = self.reduce[0](c5)
        merged4 = self.top_down[0](torch.cat((_upsample(reduced5), c4), dim=1))
        reduced4 = self.reduce[1](merged4)
        p3 = self.top_down[1](torch.cat((_upsample(reduced4), c3), dim=1))
        # The way up takes the reduced features, not those that entered the reduction.
        p4 = self.bottom_up[0](torch.cat((self.downsample[0](p3), reduced4), dim=1))
        p5 = self.bottom_up[1](torch.cat((self.downsample[1](p4), reduced5), dim=1))
        return self.out[0](p3), self.out[1](p4), self.out[2](p5)


def _upsample(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="nearest")
