"""The head for rotated boxes: the box head, and an angle from the regression branch."""

from torch import Tensor

from model.config import STRIDES, RTMDetConfig
from model.heads.detection import DetectionHead
from model.heads.outputs import HeadOutputs
from model.heads.towers import LevelPredictors


class RotatedHead(DetectionHead):
    """Scores, distances in the box's own frame, and its angle in radians."""

    def __init__(self, config: RTMDetConfig) -> None:
        super().__init__(config)
        self.angle_predictors = LevelPredictors(config.feature_channels, 1, num_levels=len(STRIDES))

    def forward(self, features: tuple[Tensor, ...]) -> HeadOutputs:
        """P3, P4, P5 -> scores, distances and angle of every prior."""
        reg_features = self.reg_towers(features)
        return HeadOutputs(
            logits=self.cls_predictors(self.cls_towers(features)),
            distances=self.distances(reg_features),
            angles=self.angle_predictors(reg_features),
            kernels=[],
            mask_features=None,
        )
