"""Every network variant of the family as a value: what differs between nano and x.

Torch-free, so that serving may name variants too. Figures: arXiv 2212.07784 and the published
configurations.
"""

from dataclasses import dataclass, replace
from typing import Literal

Task = Literal["detect", "instance", "rotated"]

#: Pixels of the input per cell of each feature level.
STRIDES = (8, 16, 32)

#: The side of the input must be a multiple of the coarsest stride.
SIZE_MULTIPLE = STRIDES[-1]

#: Channels of the backbone's stem and of its four stages at widen 1.
_STEM_CHANNELS = 64
_STAGE_CHANNELS = (128, 256, 512, 1024)
_STAGE_BLOCKS = (3, 6, 6, 3)


@dataclass(frozen=True)
class BackboneConfig:
    """CSPNeXt: how deep, how wide, and whether its 3x3 convolutions are depthwise separable."""

    deepen: float
    widen: float
    depthwise: bool = False

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's output, at stride 2."""
        return int(_STEM_CHANNELS * self.widen)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the four stages, at strides 4, 8, 16, 32."""
        return tuple(int(channels * self.widen) for channels in _STAGE_CHANNELS)

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        """Number of CSPNeXt blocks in each of the four stages."""
        return tuple(max(round(blocks * self.deepen), 1) for blocks in _STAGE_BLOCKS)


@dataclass(frozen=True)
class RTMDetConfig:
    """One member of the family.

    `exp_on_reg`: box distances are `exp(prediction) * stride` instead of `prediction * stride`
    (instance models always take the positive part instead).
    `share_conv`: the towers of the detection and rotated heads share their convolutions between
    the levels and keep batch norms of their own.
    `input_size` is (height, width) in pixels, what the model is trained and served at by default.
    """

    name: str
    task: Task
    backbone: BackboneConfig
    neck_blocks: int
    num_classes: int
    exp_on_reg: bool = False
    share_conv: bool = True
    input_size: tuple[int, int] = (640, 640)

    @property
    def depthwise(self) -> bool:
        """Whether 3x3 convolutions are depthwise separable, in the neck and head too."""
        return self.backbone.depthwise

    @property
    def feature_channels(self) -> int:
        """Channels of the neck's outputs and of the head's towers."""
        return int(256 * self.backbone.widen)

    def with_classes(self, num_classes: int) -> "RTMDetConfig":
        """The same network for another number of classes."""
        if num_classes < 1:
            raise ValueError(f"a detector needs at least one class, got {num_classes}")
        return replace(self, num_classes=num_classes)


BACKBONES: dict[str, BackboneConfig] = {
    "nano": BackboneConfig(deepen=0.33, widen=0.25, depthwise=True),
    "tiny": BackboneConfig(deepen=0.167, widen=0.375),
    "s": BackboneConfig(deepen=0.33, widen=0.5),
    "m": BackboneConfig(deepen=0.67, widen=0.75),
    "l": BackboneConfig(deepen=1.0, widen=1.0),
    "x": BackboneConfig(deepen=1.33, widen=1.25),
}

_NECK_BLOCKS = {"nano": 1, "tiny": 1, "s": 1, "m": 2, "l": 3, "x": 4}
_EXP_ON_REG = {"m", "l", "x"}


def _detector(size: str, infix: str, task: Task, num_classes: int, side: int) -> RTMDetConfig:
    return RTMDetConfig(
        name=f"rtmdet-{infix}{size}",
        task=task,
        backbone=BACKBONES[size],
        neck_blocks=_NECK_BLOCKS[size],
        num_classes=num_classes,
        exp_on_reg=size in _EXP_ON_REG and task != "instance",
        share_conv=size != "nano",
        input_size=(side, side),
    )


def _family() -> dict[str, RTMDetConfig]:
    boxes = [
        _detector(size, "", "detect", 80, 320 if size == "nano" else 640) for size in BACKBONES
    ]
    masks = [_detector(size, "ins-", "instance", 80, 640) for size in BACKBONES]
    rotated = [_detector(size, "r-", "rotated", 15, 1024) for size in BACKBONES if size != "x"]
    return {config.name: config for config in (*boxes, *masks, *rotated)}


#: Name of a variant (`rtmdet-tiny`, `rtmdet-ins-m`, `rtmdet-r-l`) to its configuration.
VARIANTS: dict[str, RTMDetConfig] = _family()

#: Name of a classifier (`cspnext-tiny` .. `cspnext-x`) to its backbone.
CLASSIFIERS: dict[str, BackboneConfig] = {
    f"cspnext-{size}": backbone for size, backbone in BACKBONES.items() if size != "nano"
}


def variant(name: str) -> RTMDetConfig:
    """The configuration of that name, or a ValueError that names those there are."""
    if name not in VARIANTS:
        raise ValueError(f"unknown model variant '{name}'; there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]
