"""Networks whose norms scale and shift, exported."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from model.checkpoints.checkpoint_files import save_checkpoint
from model.config import VARIANTS
from model.export import export_model
from model.manifest import Source
from model.rtmdet import RTMDet, build_rtmdet

CLASSES = ("cat", "dog", "cow")


def network_with_statistics(name: str) -> RTMDet:
    """Random weights whose norms scale and shift by something, as after a training."""
    torch.manual_seed(0)
    network = build_rtmdet(VARIANTS[name].with_classes(len(CLASSES)))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, mean=1.0, std=0.3)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


def exported(network: RTMDet, folder: Path, **options: bool) -> Path:
    manifest = save_checkpoint(
        network,
        folder / "weights.safetensors",
        classes=CLASSES,
        source=Source(kind="initialised"),
        input_size=(64, 96),
    )
    return export_model(network, manifest, folder / "repository", name="shop", **options)


def exported_once(name: str, factory: pytest.TempPathFactory) -> Path:
    """`network_with_statistics(name)` exported, fp16 too, once for all tests: nobody changes it."""
    return _exported_once(name, factory.getbasetemp() / f"exported-{name}")


@cache
def _exported_once(name: str, folder: Path) -> Path:
    folder.mkdir()
    return exported(network_with_statistics(name), folder, fp16=True)
