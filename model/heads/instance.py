"""The head for instance masks: every prior predicts a small network that draws its mask.

The mask network has three 1x1 convolutions (10 -> 8 -> 8 -> 1 channels, 169 numbers in all). It
runs on eight shared mask features and the position relative to the prior; that part is not in the
network but in `model.masks` (serving) and in the training's loss, for the kept instances alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import STRIDES, RTMDetConfig
from model.heads.detection import NUM_CONVS, PRIOR_LOGIT, initialise_convs
from model.heads.outputs import HeadOutputs
from model.heads.towers import LevelPredictors, towers
from model.layers import conv3x3

#: Channels of the shared mask features, and numbers in one mask network.
MASK_CHANNELS = 8
KERNEL_PARAMETERS = 10 * 8 + 8 * 8 + 8 * 1 + 8 + 8 + 1

_MASK_CONVS = 4


class MaskFeatures(nn.Module):
    """All levels, brought to the finest, become the shared mask features."""

    def __init__(self, channels: int, *, depthwise: bool) -> None:
        super().__init__()
        self.fusion = nn.Conv2d(len(STRIDES) * channels, channels, 1)
        self.convs = nn.Sequential(
            *(conv3x3(channels, channels, depthwise=depthwise) for _ in range(_MASK_CONVS))
        )
        self.projection = nn.Conv2d(channels, MASK_CHANNELS, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """P3, P4, P5 -> float32 [n, 8, h / 8, w / 8]."""
        finest, *coarser = features
        raised = [
            F.interpolate(level, scale_factor=float(stride // STRIDES[0]), mode="bilinear")
            for level, stride in zip(coarser, STRIDES[1:], strict=True)
        ]
        fused = self.fusion(torch.cat((finest, *raised), dim=1))
        return self.projection(self.convs(fused)).float()


class InstanceHead(nn.Module):
    """Scores, box distances and mask networks.

    The published head reads its boxes from the classification towers (their list stands under
    two names), so there are no regression towers here. Its kernel towers are separate on every
    level even where the classification towers are shared.
    """

    def __init__(self, config: RTMDetConfig) -> None:
        super().__init__()
        channels = config.feature_channels
        num_levels = len(STRIDES)
        self.cls_towers = towers(
            channels,
            num_levels=num_levels,
            num_convs=NUM_CONVS,
            share_conv=config.share_conv,
            depthwise=config.depthwise,
        )
        _move_statistics_twice(self.cls_towers)
        self.kernel_towers = towers(
            channels,
            num_levels=num_levels,
            num_convs=NUM_CONVS,
            share_conv=False,
            depthwise=config.depthwise,
        )
        self.cls_predictors = LevelPredictors(channels, config.num_classes, num_levels=num_levels)
        self.reg_predictors = LevelPredictors(channels, 4, num_levels=num_levels)
        self.kernel_predictors = LevelPredictors(channels, KERNEL_PARAMETERS, num_levels=num_levels)
        self.mask_features = MaskFeatures(channels, depthwise=config.depthwise)

    def forward(self, features: tuple[Tensor, ...]) -> HeadOutputs:
        """P3, P4, P5 -> scores, distances and mask network of every prior; mask features."""
        cls_features = self.cls_towers(features)
        distances = [
            F.relu(raw) * stride
            for raw, stride in zip(self.reg_predictors(cls_features), STRIDES, strict=True)
        ]
        return HeadOutputs(
            logits=self.cls_predictors(cls_features),
            distances=distances,
            angles=[],
            kernels=self.kernel_predictors(self.kernel_towers(features)),
            mask_features=self.mask_features(features),
        )

    @torch.no_grad()
    def initialise(self) -> None:
        """As the box head; distances start at one stride, for ReLU has no gradient at zero."""
        initialise_convs(self)
        for predict in self.cls_predictors.levels:
            _fill_bias(predict, PRIOR_LOGIT)
        for predict in self.reg_predictors.levels:
            _fill_bias(predict, 1.0)


def _move_statistics_twice(cls_towers: nn.Module) -> None:
    """Let a step move the running statistics as far as two steps do elsewhere.

    The published head runs these towers twice a step, once under the name of the regression
    towers. The outputs are the same; the statistics have moved by 1 - (1 - m)^2.
    """
    for module in cls_towers.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum is not None
            module.momentum = 1 - (1 - module.momentum) ** 2


def _fill_bias(predict: nn.Module, value: float) -> None:
    assert isinstance(predict, nn.Conv2d)
    assert predict.bias is not None
    predict.bias.fill_(value)
