"""Files of weights: reading published ones, writing and reading our own.

Ours are `NAME.safetensors` with the manifest `NAME.json` beside it, which is written last. Nothing
here runs code out of a file.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.checkpoints.class_names import checked_classes
from model.checkpoints.torch_file import UnreadableCheckpoint, read_torch_file
from model.config import RTMDetConfig, variant
from model.durable import move_into_place, part_of
from model.manifest import (
    CheckpointManifest,
    ManifestError,
    Source,
    file_sha256,
    read_checkpoint_manifest,
    valid_input_size,
    write_manifest,
)
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import to_published

SUFFIX = ".safetensors"

#: Which of the two sets of weights that a training run saves: the moving average, which is what
#: runs publish, or the weights that the optimizer worked on.
Which = Literal["ema", "plain"]


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Weights under their published names, and the classes that the file names, if it does."""

    weights: dict[str, Tensor]
    classes: tuple[str, ...] | None


def read_published(path: Path, *, which: Which = "ema") -> PublishedCheckpoint:
    """Read a `.pth` of mmdet, mmrotate, mmpretrain or mmyolo, or a bare state dict.

    Saving swaps the two sets: `state_dict` holds the average and `ema_state_dict` (mmengine) or
    the entries `ema_*` (its predecessors) what the optimizer worked on. A file with one set has
    only "ema". Raises UnreadableCheckpoint.
    """
    file = read_torch_file(path)
    content: Any = file.content
    if not isinstance(content, dict):
        raise UnreadableCheckpoint(f"{path}: it holds no dictionary of weights")
    state = file.tensors(content.get("state_dict", content))
    if not state:
        raise UnreadableCheckpoint(f"{path}: it holds no weights, in 'state_dict' or at the top")
    underscored = {f"ema_{name.replace('.', '_')}": name for name in state}
    averaged = {name: value for name, value in state.items() if name not in underscored}
    if which == "ema":
        return PublishedCheckpoint(averaged, _classes(content))
    plain = {underscored[name]: value for name, value in state.items() if name in underscored}
    plain |= file.tensors(content.get("ema_state_dict"))
    plain.pop("steps", None)
    if not plain:
        raise UnreadableCheckpoint(f"{path}: it holds one set of weights; ask for which='ema'")
    # Some averaged the parameters alone: then the buffers stand in one place only.
    missing = {name: value for name, value in averaged.items() if name not in _bare(plain)}
    return PublishedCheckpoint(plain | missing, _classes(content))


def _bare(state: Mapping[str, Tensor]) -> set[str]:
    return {name.removeprefix("module.") for name in state}


def _classes(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes, from the three places where they have stood over the years."""
    meta = content.get("meta")
    if not isinstance(meta, dict):
        return None
    dataset = meta.get("dataset_meta")
    for holder in (dataset, meta):
        for key in ("classes", "CLASSES"):
            names = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(names, str):
                return (names,)
            if (
                isinstance(names, list | tuple)
                and names
                and all(isinstance(name, str) for name in names)
            ):
                return tuple(names)
    return None


def save_checkpoint(
    network: RTMDet,
    path: Path,
    *,
    classes: Sequence[str],
    source: Source,
    input_size: tuple[int, int] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> CheckpointManifest:
    """Write `network` as `NAME.safetensors` and its manifest `NAME.json`; returns the manifest.

    `input_size` is (height, width) in pixels, by default the network's own. Raises ValueError for
    another suffix, a wrong number of classes, or a network that is no member of the family (its
    file could not be loaded again).
    """
    manifest_path = _manifest_path(path)
    config = network.config
    if replace(variant(config.name), num_classes=config.num_classes) != replace(
        config, input_size=variant(config.name).input_size
    ):
        raise ValueError(f"this network is not {config.name}: its sizes were changed")
    names = checked_classes(classes, num_classes=config.num_classes)
    size = valid_input_size(input_size or config.input_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    # Its own way to write files makes them unreadable for other users.
    part.write_bytes(safetensors.torch.save(_portable(network.state_dict())))
    manifest = CheckpointManifest(
        variant=config.name,
        task=config.task,
        classes=names,
        input_size=size,
        weights_sha256=file_sha256(part),
        source=source,
        metrics=dict(metrics or {}),
    )
    move_into_place(part, path)
    write_manifest(manifest, manifest_path)
    return manifest


def load_checkpoint(path: Path) -> tuple[RTMDet, CheckpointManifest]:
    """Read `NAME.safetensors` and its manifest: the network, in evaluation mode, and the manifest.

    Raises ManifestError where the manifest is missing, broken or at odds with the weights, and
    UnreadableCheckpoint where the weights are.
    """
    manifest_path = _manifest_path(path)
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path}: there is no such file")
    manifest = read_checkpoint_manifest(manifest_path)
    config = _config_of(manifest, manifest_path)
    if file_sha256(path) != manifest.weights_sha256:
        raise ManifestError(
            f"{path}: its sha256 is not the one in {manifest_path.name}: "
            "the file was damaged or changed, or saving was interrupted"
        )
    with torch.device("meta"):
        network = build_rtmdet(config)
    try:
        weights = safetensors.torch.load_file(path)
        network.load_state_dict(weights, assign=True)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UnreadableCheckpoint(f"{path}: no weights of {config.name}: {reason}") from error
    return network.eval(), manifest


def export_published(network: RTMDet, path: Path, *, classes: Sequence[str]) -> None:
    """Write `network` as a `.pth` in the layout of mmdet and mmrotate, for their own tools."""
    names = checked_classes(classes, num_classes=network.config.num_classes)
    content = {
        "meta": {"dataset_meta": {"classes": names}},
        "state_dict": OrderedDict(to_published(network)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    torch.save(content, part)
    move_into_place(part, path)


def _config_of(manifest: CheckpointManifest, path: Path) -> RTMDetConfig:
    try:
        config = variant(manifest.variant).with_classes(len(manifest.classes))
        config = replace(config, input_size=valid_input_size(manifest.input_size))
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from error
    if config.task != manifest.task:
        raise ManifestError(f"{path}: task '{manifest.task}', but {config.name} is {config.task}")
    return config


def _manifest_path(path: Path) -> Path:
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: a checkpoint's file is named NAME{SUFFIX}")
    return path.with_suffix(".json")


def _portable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain tensors on the CPU, in the usual order of their elements."""
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
