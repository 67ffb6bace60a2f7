"""The whole detector: backbone, neck, head, built from one configuration."""

import torch
from torch import Tensor, nn

from model.backbone import CSPNeXt
from model.config import RTMDetConfig
from model.heads.detection import DetectionHead
from model.heads.instance import InstanceHead
from model.heads.outputs import HeadOutputs
from model.heads.rotated import RotatedHead
from model.neck import CSPNeXtPAFPN

_HEADS = {"detect": DetectionHead, "instance": InstanceHead, "rotated": RotatedHead}


class RTMDet(nn.Module):
    """A network of the family. Takes normalised pictures; `model.decoding` makes boxes of it."""

    def __init__(
        self,
        config: RTMDetConfig,
        backbone: CSPNeXt,
        neck: CSPNeXtPAFPN,
        head: DetectionHead | InstanceHead | RotatedHead,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> HeadOutputs:
        """Normalised BGR [n, 3, h, w], both sides multiples of 32 -> predictions per level."""
        return self.head(self.neck(self.backbone(images)))


def build_rtmdet(config: RTMDetConfig) -> RTMDet:
    """A freshly initialised network; seed torch before, where it must be the same again."""
    network = RTMDet(
        config,
        backbone=CSPNeXt(config.backbone),
        neck=CSPNeXtPAFPN(
            config.backbone.stage_channels[1:],
            config.feature_channels,
            num_blocks=config.neck_blocks,
            depthwise=config.depthwise,
        ),
        head=_HEADS[config.task](config),
    )
    initialise_trunk(network.backbone)
    initialise_trunk(network.neck)
    network.head.initialise()
    return network


@torch.no_grad()
def initialise_trunk(trunk: nn.Module) -> None:
    """Backbone and neck: weights U(-b, b) with b = 1 / sqrt(fan_in), biases 0.

    The bound is Kaiming's uniform rule at a = sqrt(5), which is also torch's own default for the
    weights of a convolution, but not for its biases.
    """
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                module.bias.zero_()
