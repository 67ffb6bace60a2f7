"""CSPNeXt, the backbone (arXiv 2212.07784 section 3.2)."""

from torch import Tensor, nn

from model.config import BackboneConfig
from model.layers import ConvBNAct, CSPLayer, SpatialPyramidPooling, conv3x3


class CSPNeXt(nn.Module):
    """A stem at stride 2 and four stages at strides 4 to 32."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        stem = config.stem_channels
        self.stem = nn.Sequential(
            ConvBNAct(3, stem // 2, 3, 2),
            ConvBNAct(stem // 2, stem // 2, 3),
            ConvBNAct(stem // 2, stem, 3),
        )
        channels = (stem, *config.stage_channels)
        last = len(config.stage_blocks) - 1
        self.stages = nn.ModuleList(
            _stage(
                channels[index],
                channels[index + 1],
                num_blocks=num_blocks,
                is_last=index == last,
                depthwise=config.depthwise,
            )
            for index, num_blocks in enumerate(config.stage_blocks)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised BGR [n, 3, h, w] -> C3, C4, C5: [n, c, h / s, w / s] for s = 8, 16, 32."""
        features = self.stages[0](self.stem(images))
        c3 = self.stages[1](features)
        c4 = self.stages[2](c3)
        c5 = self.stages[3](c4)
        return c3, c4, c5


def _stage(
    in_channels: int, out_channels: int, *, num_blocks: int, is_last: bool, depthwise: bool
) -> nn.Sequential:
    """Downsample, then a CSP layer; the last stage pools in between and has no identities."""
    layers: list[nn.Module] = [conv3x3(in_channels, out_channels, stride=2, depthwise=depthwise)]
    if is_last:
        layers.append(SpatialPyramidPooling(out_channels))
    layers.append(
        CSPLayer(
            out_channels,
            out_channels,
            num_blocks=num_blocks,
            add_identity=not is_last,
            attention=True,
            depthwise=depthwise,
        )
    )
    return nn.Sequential(*layers)
