"""A trained classifier as a file that detectors start from."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch

from model.checkpoints.class_names import checked_classes
from model.classifier import CSPNeXtClassifier
from model.durable import move_into_place, part_of
from model.weights import to_published


def save_classifier(network: CSPNeXtClassifier, path: Path, *, classes: Sequence[str]) -> None:
    """Write `network` as a `.pth` in the published layout, which `model.init` takes.

    Raises ValueError for a number of classes that is not the network's.
    """
    names = checked_classes(classes, num_classes=network.fc.out_features)
    weights = {name: value.detach().cpu() for name, value in to_published(network).items()}
    content = {
        "meta": {"dataset_meta": {"classes": names}},
        "state_dict": OrderedDict(weights),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    torch.save(content, part)
    move_into_place(part, path)
