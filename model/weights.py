"""Names of published checkpoints and ours: one table, read in both directions.

The published layouts are those of mmdet and mmrotate (detectors) and mmpretrain (classifiers).
A tensor that the published network uses in several places stands there under several names, in
ours under one.
"""

import re

from torch import Tensor, nn

from model.config import STRIDES
from model.rtmdet import RTMDet

#: Part of our name to part of the published one; every rule that matches is applied, in order.
_RULES: tuple[tuple[str, str], ...] = (
    (r"\.norm\b", ".bn"),
    (r"\.depthwise\b", ".depthwise_conv"),
    (r"\.pointwise\b", ".pointwise_conv"),
    (r"^neck\.reduce\b", "neck.reduce_layers"),
    (r"^neck\.top_down\b", "neck.top_down_blocks"),
    (r"^neck\.downsample\b", "neck.downsamples"),
    (r"^neck\.bottom_up\b", "neck.bottom_up_blocks"),
    (r"^neck\.out\b", "neck.out_convs"),
    (r"^head\.(cls|reg|kernel)_towers\.levels\b", r"bbox_head.\1_convs"),
    # A convolution that all levels share: `*` becomes every level.
    (r"^head\.(cls|reg)_towers\.convs\.(\d+)\b", r"bbox_head.\1_convs.*.\2.conv"),
    (r"^head\.(cls|reg)_towers\.norms\.(\d+)\.(\d+)\b", r"bbox_head.\1_convs.\2.\3.bn"),
    (r"^head\.(cls|reg|kernel)_predictors\.levels\b", r"bbox_head.rtm_\1"),
    (r"^head\.angle_predictors\.levels\b", "bbox_head.rtm_ang"),
    (r"^head\.mask_features\.fusion\b", "bbox_head.mask_head.fusion_conv"),
    (r"^head\.mask_features\.convs\b", "bbox_head.mask_head.stacked_convs"),
    (r"^head\.mask_features\.projection\b", "bbox_head.mask_head.projection"),
    (r"^fc\b", "head.fc"),
)

_STAGE = re.compile(r"^backbone\.stages\.(\d+)")


def published_names(name: str, *, boxes_from_cls_towers: bool) -> list[str]:
    """Every published name of our parameter or buffer `name`.

    `boxes_from_cls_towers`: the instance head, whose published regression towers are its
    classification towers under a second name.
    """
    # Stages count from 1 there.
    published = _STAGE.sub(lambda match: f"backbone.stage{int(match[1]) + 1}", name)
    for pattern, replacement in _RULES:
        published = re.sub(pattern, replacement, published)
    names = [published.replace("*", str(level)) for level in range(len(STRIDES))]
    if boxes_from_cls_towers:
        names += [other.replace(".cls_convs.", ".reg_convs.") for other in names]
    return list(dict.fromkeys(names))


def name_table(network: nn.Module) -> dict[str, list[str]]:
    """Our names of all parameters and buffers of `network` to their published names."""
    shares = isinstance(network, RTMDet) and network.config.task == "instance"
    return {
        name: published_names(name, boxes_from_cls_towers=shares) for name in network.state_dict()
    }


def to_published(network: nn.Module) -> dict[str, Tensor]:
    """The weights of `network` under the published names; shared tensors under each of theirs."""
    table = name_table(network)
    return {
        published: tensor
        for name, tensor in network.state_dict().items()
        for published in table[name]
    }
