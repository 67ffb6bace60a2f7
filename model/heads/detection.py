"""The box head: a classification and a regression branch on every level (section 3.2)."""

import torch
from torch import Tensor, nn

from model.config import STRIDES, RTMDetConfig
from model.heads.outputs import HeadOutputs
from model.heads.towers import LevelPredictors, towers

NUM_CONVS = 2

#: A score of 0.01 for every class at the start, so that background does not swamp the loss.
PRIOR_LOGIT = -4.59511985013459


class Exp(nn.Module):
    """The exponential as a module, so that a head is given its activation when it is built."""

    def forward(self, values: Tensor) -> Tensor:
        """Elementwise."""
        return values.exp()


class DetectionHead(nn.Module):
    """Scores and box distances."""

    def __init__(self, config: RTMDetConfig) -> None:
        super().__init__()
        channels = config.feature_channels
        num_levels = len(STRIDES)

        def branch() -> nn.Module:
            return towers(
                channels,
                num_levels=num_levels,
                num_convs=NUM_CONVS,
                share_conv=config.share_conv,
                depthwise=config.depthwise,
            )

        self.cls_towers = branch()
        self.reg_towers = branch()
        self.cls_predictors = LevelPredictors(channels, config.num_classes, num_levels=num_levels)
        self.reg_predictors = LevelPredictors(channels, 4, num_levels=num_levels)
        self.distance_activation: nn.Module = Exp() if config.exp_on_reg else nn.Identity()

    def forward(self, features: tuple[Tensor, ...]) -> HeadOutputs:
        """P3, P4, P5 -> scores and distances of every prior."""
        reg_features = self.reg_towers(features)
        return HeadOutputs(
            logits=self.cls_predictors(self.cls_towers(features)),
            distances=self.distances(reg_features),
            angles=[],
            kernels=[],
            mask_features=None,
        )

    def distances(self, reg_features: list[Tensor]) -> list[Tensor]:
        """Distances in pixels of the input. Without the exponential they may be negative."""
        return [
            self.distance_activation(raw) * stride
            for raw, stride in zip(self.reg_predictors(reg_features), STRIDES, strict=True)
        ]

    @torch.no_grad()
    def initialise(self) -> None:
        """The published initialisation: small normal weights, no bias but the prior's logit."""
        initialise_convs(self)
        for predict in self.cls_predictors.levels:
            assert isinstance(predict, nn.Conv2d)
            assert predict.bias is not None
            predict.bias.fill_(PRIOR_LOGIT)


@torch.no_grad()
def initialise_convs(head: nn.Module) -> None:
    """Every convolution of a head: weights N(0, 0.01), biases 0. Batch norms stay at 1 and 0."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                module.bias.zero_()
