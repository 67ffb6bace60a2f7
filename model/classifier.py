"""The ImageNet classifier that the backbone is pre-trained as."""

from torch import Tensor, nn

from model.backbone import CSPNeXt
from model.config import BackboneConfig
from model.rtmdet import initialise_trunk


class CSPNeXtClassifier(nn.Module):
    """CSPNeXt, the mean over the picture, and a linear layer."""

    def __init__(self, backbone: CSPNeXt, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [n, 3, h, w] -> logits [n, classes]."""
        coarsest = self.backbone(images)[-1]
        return self.fc(coarsest.mean(dim=(2, 3)))


def build_classifier(config: BackboneConfig, num_classes: int = 1000) -> CSPNeXtClassifier:
    """A freshly initialised classifier."""
    network = CSPNeXtClassifier(CSPNeXt(config), config.stage_channels[-1], num_classes)
    initialise_trunk(network.backbone)
    nn.init.normal_(network.fc.weight, std=0.01)
    nn.init.zeros_(network.fc.bias)
    return network
