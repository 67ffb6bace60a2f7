"""The weights of an exported model, read back out of its graph.

Exporting folds every batch norm into the convolution before it. Here each norm comes back as one
that only shifts, so that the network computes what the graph computes; the statistics that it was
trained with are not in the file. To train on, estimate them anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn

from model.checkpoints.torch_file import UnreadableCheckpoint
from model.config import variant
from model.heads.towers import SharedTowers
from model.layers import ConvBNAct
from model.manifest import GRAPH_FILE, VersionManifest
from model.repository import ModelRepository
from model.rtmdet import RTMDet, build_rtmdet

SUFFIX = ".onnx"

#: What the network's tensors are called inside a graph begins so.
_PREFIX = "network."

#: How far the levels' copies of a shared convolution may be from a multiple of each other: squares
#: of what remains, of those of the strongest. Rounding leaves far less.
_MOST_ERROR = 1e-8

#: Takes a tensor by its name, which must be like another.
_Take = Callable[[str, Tensor], Tensor]


def load_exported(path: Path) -> tuple[RTMDet, VersionManifest]:
    """Read `NAME/VERSION/model.onnx` of a model repository: the network, and what it is.

    The network is in evaluation mode. Raises RepositoryError where no repository has this very
    file, and UnreadableCheckpoint for another file or one that lacks the weights.
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
    version = path.absolute().parent
    model = version.parent
    if path.name != GRAPH_FILE or not version.name.isdecimal():
        raise UnreadableCheckpoint(
            f"{path}: of an exported model name NAME/VERSION/{GRAPH_FILE}, as it lies in its "
            "repository"
        )
    return ModelRepository(model.parent).open(model.name, int(version.name)).manifest


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

    for name, module in network.named_modules():
        if isinstance(module, SharedTowers):
            _fill_shared(module, name, take, path)
        elif isinstance(module, ConvBNAct):
            module.conv.weight.copy_(take(f"{name}.conv.weight", module.conv.weight))
            assert isinstance(module.norm, nn.BatchNorm2d)
            _shift_only(module.norm, take(f"{name}.conv.bias", module.norm.bias))
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.weight.copy_(take(f"{name}.weight", module.weight))
            module.bias.copy_(take(f"{name}.bias", module.bias))
    if remaining:
        raise UnreadableCheckpoint(
            f"{path}: it has '{next(iter(remaining))}', which {network.config.name} does not have"
        )


def _shift_only(norm: nn.BatchNorm2d, shift: Tensor) -> None:
    """Let a norm add `shift` in evaluation and do nothing else."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.fill_(1)
    norm.bias.copy_(shift)


def _fill_shared(towers: SharedTowers, name: str, take: _Take, path: Path) -> None:
    """Put the levels' copies of the shared convolutions together again.

    They have been [out, in, k, k] for each level since the export, and differ by a factor for each
    output channel, which becomes the scale of the level's norm. The strongest copy of a channel is
    what the others are measured by.
    """
    for position, conv in enumerate(towers.convs):
        assert isinstance(conv, nn.Conv2d)
        norms = [norms[position] for norms in towers.norms if isinstance(norms, nn.ModuleList)]
        prefixes = [f"{name}.levels.{level}.{position}.conv" for level in range(len(norms))]
        copies = torch.stack([take(f"{prefix}.weight", conv.weight) for prefix in prefixes])
        flat = copies.flatten(2).double()
        strongest = flat.square().sum(2).argmax(0)
        reference = flat[strongest, torch.arange(flat.shape[1])]
        energy = reference.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)
        scales = (flat * reference).sum(2) / energy
        error = (flat - scales[..., None] * reference).square().sum(2)
        if (error > _MOST_ERROR * energy).any():
            raise UnreadableCheckpoint(
                f"{path}: the levels of '{name}' do not share their convolutions, as those of this "
                "variant do: name a model.onnx that 'rtmdet export' wrote"
            )
        conv.weight.copy_(reference.view_as(conv.weight))
        for norm, scale, prefix in zip(norms, scales, prefixes, strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            _shift_only(norm, take(f"{prefix}.bias", norm.bias))
            norm.weight.copy_(scale)
