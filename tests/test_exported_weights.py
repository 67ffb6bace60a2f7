"""Weights that come back out of an exported graph."""

import shutil
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from model.checkpoints.exported_weights import load_exported
from model.checkpoints.torch_file import UnreadableCheckpoint
from model.manifest import file_sha256, read_model_manifest, write_manifest
from model.repository import RepositoryError
from model.rtmdet import RTMDet
from tests.exported_networks import (
    CLASSES,
    exported,
    exported_once,
    network_with_statistics,
)


def outputs(network: RTMDet) -> list[Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        found = network(torch.randn(2, 3, 64, 96))
    tensors = [*found.logits, *found.distances, *found.angles, *(found.kernels or ())]
    return [*tensors, *([] if found.mask_features is None else [found.mask_features])]


# Tiny has towers that share their convolutions, nano has separate ones.
@pytest.mark.parametrize("name", ["rtmdet-nano", "rtmdet-tiny", "rtmdet-ins-tiny", "rtmdet-r-tiny"])
def test_load_exported__computes_what_was_exported(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = network_with_statistics(name)
    loaded, manifest = load_exported(exported_once(name, tmp_path_factory) / "model.onnx")
    assert (manifest.variant, manifest.classes, loaded.config.input_size) == (
        name,
        CLASSES,
        (64, 96),
    )
    assert not loaded.training
    for ours, theirs in zip(outputs(loaded), outputs(network), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_once("rtmdet-nano", tmp_path_factory) / "model.onnx"


def copied(graph: Path, folder: Path) -> Path:
    """A copy of the whole model that may be damaged."""
    shutil.copytree(graph.parent.parent, folder / "shop")
    return folder / "shop" / "1" / "model.onnx"


def test_load_exported__missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match="there is no such file"):
        load_exported(tmp_path / "model.onnx")


def test_load_exported__graph_outside_of_a_repository(graph: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(graph, tmp_path))
    with pytest.raises(UnreadableCheckpoint, match=r"name NAME/VERSION/model\.onnx"):
        load_exported(alone)


def test_load_exported__changed_file(graph: Path, tmp_path: Path) -> None:
    path = copied(graph, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RepositoryError, match="damaged or was replaced"):
        load_exported(path)


def test_load_exported__half_precision_names_the_file_to_take(graph: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"name NAME/VERSION/model\.onnx"):
        load_exported(graph.with_name("model.fp16.onnx"))


def described_anew(path: Path) -> Path:
    """`path`, its manifest's digest corrected: a file that is whole, but not what it should be."""
    described = path.parent.parent / "model.json"
    manifest = read_model_manifest(described)
    version = manifest.versions[1]
    files = {**version.files, path.name: file_sha256(path)}
    changed = version.model_copy(update={"files": files})
    write_manifest(manifest.model_copy(update={"versions": {1: changed}}), described)
    return path


def test_load_exported__no_graph_at_all(graph: Path, tmp_path: Path) -> None:
    path = copied(graph, tmp_path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UnreadableCheckpoint, match="no ONNX graph"):
        load_exported(described_anew(path))


@pytest.mark.parametrize("change", ["rename", "reshape"])
def test_load_exported__weights_of_something_else(graph: Path, tmp_path: Path, change: str) -> None:
    path = copied(graph, tmp_path)
    content = onnx.load(path)
    conv = next(node for node in content.graph.node if node.op_type == "Conv")
    weight = next(each for each in content.graph.initializer if each.name == conv.input[1])
    if change == "rename":
        weight.name = conv.input[1] = "network.other.weight"
    else:
        weight.dims[0], weight.dims[1] = weight.dims[1], weight.dims[0]
    onnx.save(content, path)
    with pytest.raises(UnreadableCheckpoint, match=r"model\.onnx: it has no 'backbone\.stem\.0"):
        load_exported(described_anew(path))


def test_load_exported__levels_that_do_not_share_are_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = copied(exported_once("rtmdet-tiny", tmp_path_factory) / "model.onnx", tmp_path)
    content = onnx.load(path)
    weights = {tensor.name: tensor for tensor in content.graph.initializer}
    changed = weights["network.head.cls_towers.levels.1.0.conv.weight"]
    values = onnx.numpy_helper.to_array(changed).copy()
    values[3] = values[3, ::-1]
    changed.CopyFrom(onnx.numpy_helper.from_array(values, changed.name))
    onnx.save(content, path)
    with pytest.raises(UnreadableCheckpoint, match="do not share their convolutions"):
        load_exported(described_anew(path))


def test_load_exported__a_channel_that_is_zero_on_one_level(tmp_path: Path) -> None:
    network = network_with_statistics("rtmdet-tiny")
    with torch.no_grad():
        network.head.cls_towers.norms[0][0].weight[3] = 0
    loaded, _ = load_exported(exported(network, tmp_path) / "model.onnx")
    for ours, theirs in zip(outputs(loaded), outputs(network), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
