"""The weights of an exported model, read back out of its graph.

Exporting folds every batch norm into the convolution before it. Here each norm comes back as one
that only shifts, so that the network computes what the graph computes; the statistics that it was
trained with are not in the file. To train on, estimate them anew.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn

from model.checkpoints.torch_file import UnreadableCheckpoint
from model.config import variant
from model.manifest import (
    MANIFEST_FILE,
    ManifestError,
    VersionManifest,
    file_sha256,
    read_model_manifest,
)
from model.rtmdet import RTMDet, build_rtmdet

SUFFIX = ".onnx"

#: What the network's tensors are called inside a graph begins so.
_PREFIX = "network."

#: Towers that share their convolutions have stood in the graph level by level since the export.
_SHARED_CONV = re.compile(r"(head\.\w+_towers)\.convs\.(\d+)")
_SHARED_NORM = re.compile(r"(head\.\w+_towers)\.norms\.(\d+)\.(\d+)")


def load_exported(path: Path) -> tuple[RTMDet, VersionManifest]:
    """Read `NAME/VERSION/model.onnx` of a model repository: the network, and what it is.

    The network is in evaluation mode. Raises ManifestError where there is no manifest two folders
    up that describes this file, and UnreadableCheckpoint where the graph lacks the weights.
    """
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path}: there is no such file")
    manifest = _described(path)
    config = replace(
        variant(manifest.variant).with_classes(len(manifest.classes)),
        input_size=manifest.input_size,
    )
    network = build_rtmdet(config).eval()
    _fill(network, _tensors(path), path)
    return network, manifest


def _described(path: Path) -> VersionManifest:
    described = path.absolute().parent.parent / MANIFEST_FILE
    if not described.is_file():
        raise ManifestError(
            f"{path}: it lies in no model repository, where {MANIFEST_FILE} two folders above says "
            "what it is: name NAME/VERSION/model.onnx there"
        )
    digest = file_sha256(path)
    for version in read_model_manifest(described).versions.values():
        if version.files.get(path.name) == digest:
            return version
    raise ManifestError(
        f"{path}: {described} describes no such file; it is damaged or was replaced"
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    """Weights and biases of the network's convolutions by our names; nothing else is read.

    Biases are found by the node that takes them: the exporter keeps equal tensors once, and leaves
    out what is zero.
    """
    tensors: dict[str, Tensor] = {}
    try:
        graph = onnx.load(path, load_external_data=False).graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type != "Conv" or not node.input[1].startswith(_PREFIX):
                continue
            conv = node.input[1].removeprefix(_PREFIX).removesuffix(".weight")
            weight = _tensor(stored[node.input[1]])
            tensors[f"{conv}.weight"] = weight
            tensors[f"{conv}.bias"] = (
                _tensor(stored[node.input[2]])
                if len(node.input) > 2
                else weight.new_zeros(len(weight))
            )
    except (DecodeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UnreadableCheckpoint(f"{path}: no ONNX graph of a detector: {error}") from error
    return tensors


def _tensor(stored: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(stored).copy())


@torch.no_grad()
def _fill(network: RTMDet, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `network` the graph's weights; every tensor of the graph must find its place."""
    remaining = dict(tensors)

    def take(name: str, like: Tensor) -> Tensor:
        tensor = remaining.pop(name, None)
        if tensor is None or tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise UnreadableCheckpoint(
                f"{path}: it has no '{name}' in float32 with the shape {list(like.shape)}: name a "
                "model.onnx that 'rtmdet export' wrote"
            )
        return tensor

    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm2d):
            conv = _folded_into(name)
            _shift_only(module, take(f"{conv}.bias", module.bias))
            if shared := _SHARED_NORM.fullmatch(name):
                own = modules[f"{shared[1]}.convs.{shared[3]}"]
                assert isinstance(own, nn.Conv2d)
                _scale(module, own, take(f"{conv}.weight", own.weight), first=shared[2] == "0")
        elif isinstance(module, nn.Conv2d) and not _SHARED_CONV.fullmatch(name):
            module.weight.copy_(take(f"{name}.weight", module.weight))
            if module.bias is not None:
                module.bias.copy_(take(f"{name}.bias", module.bias))
    if remaining:
        raise UnreadableCheckpoint(
            f"{path}: it has '{next(iter(remaining))}', which {network.config.name} does not have"
        )


def _folded_into(norm: str) -> str:
    """The graph's name of the convolution that a norm was folded into."""
    if shared := _SHARED_NORM.fullmatch(norm):
        return f"{shared[1]}.levels.{shared[2]}.{shared[3]}.conv"
    return f"{norm.removesuffix('.norm')}.conv"


def _shift_only(norm: nn.BatchNorm2d, shift: Tensor) -> None:
    """Let a norm add `shift` in evaluation and do nothing else."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.fill_(1)
    norm.bias.copy_(shift)


def _scale(norm: nn.BatchNorm2d, shared: nn.Conv2d, weight: Tensor, *, first: bool) -> None:
    """Divide one level's copy of a shared convolution into that of all and the norm's own scale.

    The levels' copies [out, in, k, k] differ by a factor per output channel. The first level's
    becomes the shared one.
    """
    if first:
        shared.weight.copy_(weight)
        return
    reference = shared.weight.flatten(1)
    energy = reference.square().sum(1)
    product = (weight.flatten(1) * reference).sum(1)
    norm.weight.copy_(torch.where(energy > 0, product / energy.clamp(min=1e-30), 1.0))
