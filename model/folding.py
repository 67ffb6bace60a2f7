"""Fold every batch norm into the convolution before it, for export.

Runtimes do this themselves where they can see it, but not where one convolution serves several
norms, as in the shared towers; and rounding to fp16 must see the weights that are really used.
"""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.heads.towers import SeparateTowers, SharedTowers
from model.layers import ConvBNAct

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def fold_batch_norms(network: Network) -> Network:
    """A copy of `network`, in eval mode, that computes the same without batch norms."""
    folded = copy.deepcopy(network).eval()
    # First the towers: unsharing them gives ordinary layers that the second loop then folds.
    for module in list(folded.modules()):
        for name, child in module.named_children():
            if isinstance(child, SharedTowers):
                setattr(module, name, _unshared(child))
    for module in folded.modules():
        if isinstance(module, ConvBNAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return folded


def _unshared(towers: SharedTowers) -> SeparateTowers:
    """The same towers, every level with a copy of the convolutions beside its own norms."""
    channels = towers.num_channels
    unshared = SeparateTowers(
        channels, num_levels=len(towers.norms), num_convs=len(towers.convs), depthwise=False
    )
    for layers, norms in zip(unshared.levels, towers.norms, strict=True):
        assert isinstance(layers, nn.Sequential)
        assert isinstance(norms, nn.ModuleList)
        for layer, conv, norm in zip(layers, towers.convs, norms, strict=True):
            assert isinstance(layer, ConvBNAct)
            assert isinstance(conv, nn.Conv2d)
            layer.conv, layer.norm = copy.deepcopy(conv), norm
    return unshared.eval()
