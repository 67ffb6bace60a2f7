"""Names of published checkpoints and ours: one table, read in both directions.

The published layouts are those of mmdet and mmrotate (detectors) and mmpretrain (classifiers).
A tensor that the published network uses in several places stands there under several names, in
ours under one.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from model.classifier import CSPNeXtClassifier, build_classifier
from model.config import CLASSIFIERS, STRIDES, VARIANTS, Task
from model.rtmdet import RTMDet, build_rtmdet


class ForeignCheckpoint(ValueError):
    """Weights of another network than the one that they were given to."""


Network = RTMDet | CSPNeXtClassifier

#: What to do with a classification layer for another number of classes than the network has:
#: refuse the weights, or leave the network's own layer as it is.
ClassLayer = Literal["strict", "reinitialise"]

#: Part of our name to part of the published one; every rule that matches is applied, in order.
_RULES: tuple[tuple[str, str], ...] = (
    (r"\.norm\b", ".bn"),
    (r"\.depthwise\b", ".depthwise_conv"),
    (r"\.pointwise\b", ".pointwise_conv"),
    (r"^neck\.reduce\b", "neck.reduce_layers"),
    (r"^neck\.top_down\b", "neck.top_down_blocks"),
    (r"^neck\.downsample\b", "neck.downsamples"),
    (r"^neck\.bottom_up\b", "neck.bottom_up_blocks"),
    (r"^neck\.out\b", "neck.out_convs"),
    (r"^head\.(cls|reg|kernel)_towers\.levels\b", r"bbox_head.\1_convs"),
    # A convolution that all levels share: `*` becomes every level.
    (r"^head\.(cls|reg)_towers\.convs\.(\d+)\b", r"bbox_head.\1_convs.*.\2.conv"),
    (r"^head\.(cls|reg)_towers\.norms\.(\d+)\.(\d+)\b", r"bbox_head.\1_convs.\2.\3.bn"),
    (r"^head\.(cls|reg|kernel)_predictors\.levels\b", r"bbox_head.rtm_\1"),
    (r"^head\.angle_predictors\.levels\b", "bbox_head.rtm_ang"),
    (r"^head\.mask_features\.fusion\b", "bbox_head.mask_head.fusion_conv"),
    (r"^head\.mask_features\.convs\b", "bbox_head.mask_head.stacked_convs"),
    (r"^head\.mask_features\.projection\b", "bbox_head.mask_head.projection"),
    (r"^fc\b", "head.fc"),
)

_STAGE = re.compile(r"^backbone\.stages\.(\d+)")


def published_names(name: str, *, boxes_from_cls_towers: bool) -> list[str]:
    """Every published name of our parameter or buffer `name`.

    `boxes_from_cls_towers`: the instance head, whose published regression towers are its
    classification towers under a second name.
    """
    # Stages count from 1 there.
    published = _STAGE.sub(lambda match: f"backbone.stage{int(match[1]) + 1}", name)
    for pattern, replacement in _RULES:
        published = re.sub(pattern, replacement, published)
    names = [published.replace("*", str(level)) for level in range(len(STRIDES))]
    if boxes_from_cls_towers:
        names += [other.replace(".cls_convs.", ".reg_convs.") for other in names]
    return list(dict.fromkeys(names))


def name_table(network: nn.Module) -> dict[str, list[str]]:
    """Our names of all parameters and buffers of `network` to their published names."""
    shares = isinstance(network, RTMDet) and network.config.task == "instance"
    return {
        name: published_names(name, boxes_from_cls_towers=shares) for name in network.state_dict()
    }


def to_published(network: nn.Module) -> dict[str, Tensor]:
    """The weights of `network` under the published names; shared tensors under each of theirs."""
    table = name_table(network)
    return {
        published: tensor
        for name, tensor in network.state_dict().items()
        for published in table[name]
    }


#: Our names of the layers whose size depends on the number of classes begin so.
_CLASS_LAYERS = ("head.cls_predictors.", "fc.")

_PUBLISHED_CLASS_BIASES = ("bbox_head.rtm_cls.0.bias", "head.fc.bias")

#: A layer that tells the task; the last one is in all detectors.
_PUBLISHED_TASKS: dict[Task, str] = {
    "instance": "bbox_head.rtm_kernel.",
    "rotated": "bbox_head.rtm_ang.",
    "detect": "bbox_head.rtm_cls.",
}

#: Published parts that all detectors have, those that boxes and rotated boxes share, and the layer
#: that means the same where the classes are the same.
_COMMON = ("backbone.", "neck.", "bbox_head.cls_convs.")
_BOX_DISTANCES = ("bbox_head.reg_convs.", "bbox_head.rtm_reg.")
_CLASS_SCORES = ("bbox_head.rtm_cls.",)

#: A tensor that tells the width of any of the published networks.
_STEM = "backbone.stem.2.bn.weight"

#: What training wrappers put before every name.
_WRAPPERS = re.compile(r"^(?:(?:module|model)\.)+")

#: Mean and std of the pictures; ours stand in the manifest.
_PREPROCESSOR = "data_preprocessor."

#: Batch norms count their batches; old files have no such counter and nothing needs it.
_COUNTER = ".num_batches_tracked"


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the prefixes of wrappers and without the preprocessor's constants."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare = _WRAPPERS.sub("", name)
        if bare.startswith(_PREPROCESSOR):
            continue
        if bare in plain:
            raise ForeignCheckpoint(f"'{bare}' is there twice, under different prefixes")
        plain[bare] = tensor
    return plain


def num_published_classes(state: Mapping[str, Tensor]) -> int | None:
    """How many classes published weights predict; None where they predict none."""
    published = plain_names(state)
    for name in _PUBLISHED_CLASS_BIASES:
        if name in published:
            return published[name].numel()
    return None


def from_published(
    state: Mapping[str, Tensor], network: Network, *, class_layer: ClassLayer = "strict"
) -> dict[str, Tensor]:
    """Published weights under our names, in the network's types; `network` stays as it is.

    Every tensor must be there, of the right shape, finite, and equal under all of its names;
    nothing else may be there but the preprocessor's constants. Prefixes of wrappers are removed,
    and counters of batch norms may be missing. With `class_layer="reinitialise"` a classification
    layer for another number of classes is left out. Raises ForeignCheckpoint, which says what
    does not fit and which member of the family the weights look like.
    """
    published = plain_names(state)
    table = name_table(network)
    likeness = partial(recognise, published)
    num_theirs, num_ours = num_published_classes(published), _num_classes(network)
    if num_theirs is not None and num_theirs != num_ours:
        published, table = _without_class_layer(published, table)
        if class_layer == "strict" and not _difference(published, table, network):
            raise ForeignCheckpoint(
                f"the weights predict {num_theirs} classes and the network {num_ours}: name the "
                "classes that the weights were trained with, or ask for a fresh classification "
                "layer (class_layer='reinitialise') and train it"
            )
    return _matched(published, table, network, likeness)


def load_published(
    network: Network, state: Mapping[str, Tensor], *, class_layer: ClassLayer = "strict"
) -> list[str]:
    """Load published weights into `network`; returns our names of what kept its own values.

    The list is empty unless `class_layer` is "reinitialise" and the numbers of classes differ.
    Raises ForeignCheckpoint as `from_published` does; then the network is unchanged.
    """
    ours = from_published(state, network, class_layer=class_layer)
    network.load_state_dict(ours, strict=False)
    return [name for name in network.state_dict() if name not in ours]


def load_backbone(network: Network, state: Mapping[str, Tensor]) -> None:
    """Load the backbone alone, out of a published classifier or detector.

    Raises ForeignCheckpoint where the backbone is missing, incomplete or of another size.
    """
    _load_parts(network, state, ("backbone.",))


def published_task(state: Mapping[str, Tensor]) -> Task | None:
    """What published weights predict; None for a classifier or a backbone alone."""
    published = plain_names(state)
    for task, layer in _PUBLISHED_TASKS.items():
        if any(name.startswith(layer) for name in published):
            return task
    return None


def load_common(
    network: RTMDet, state: Mapping[str, Tensor], *, same_classes: bool = False
) -> list[str]:
    """Load what a detector of another task has in common with `network`.

    That is backbone, neck and the towers that scores come from; with `same_classes`, in the same
    order, the scores themselves; and between boxes and rotated boxes also towers and layer of the
    distances, which mean the same (the instance head has them from the other towers). Returns our
    names of what kept its own values. Raises ForeignCheckpoint for another size; then the network
    is unchanged.
    """
    parts = _COMMON
    if "instance" not in {network.config.task, published_task(state)}:
        parts += _BOX_DISTANCES
    if same_classes:
        parts += _CLASS_SCORES
    return _load_parts(network, state, parts)


def _load_parts(network: Network, state: Mapping[str, Tensor], parts: tuple[str, ...]) -> list[str]:
    """Load what stands under published names that begin so; returns what kept its own values."""
    named = {
        name: [other for other in others if other.startswith(parts)]
        for name, others in name_table(network).items()
    }
    table = {name: others for name, others in named.items() if others}
    published = {
        name: value for name, value in plain_names(state).items() if name.startswith(parts)
    }
    ours = _matched(published, table, network, partial(recognise, state))
    network.load_state_dict(ours, strict=False)
    return [name for name in network.state_dict() if name not in ours]


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """The variant or classifier that published weights fit, for any classes; None if none."""
    published = plain_names(state)
    if _STEM not in published or num_published_classes(published) is None:
        return None
    for name, network in _family(stem_channels=published[_STEM].numel()):
        if not _difference(*_without_class_layer(published, name_table(network)), network):
            return name
    return None


def _family(*, stem_channels: int) -> Iterator[tuple[str, Network]]:
    """Every member of that width by name, without memory for its weights."""
    for name, config in VARIANTS.items():
        if config.backbone.stem_channels == stem_channels:
            with torch.device("meta"):
                detector = build_rtmdet(config)
            yield name, detector
    for name, backbone in CLASSIFIERS.items():
        if backbone.stem_channels == stem_channels:
            with torch.device("meta"):
                classifier = build_classifier(backbone)
            yield name, classifier


def _without_class_layer(
    published: Mapping[str, Tensor], table: Mapping[str, list[str]]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Both without the layer whose size depends on the number of classes."""
    rest = {ours: names for ours, names in table.items() if not ours.startswith(_CLASS_LAYERS)}
    layer = {other for ours in table.keys() - rest.keys() for other in table[ours]}
    return {name: value for name, value in published.items() if name not in layer}, rest


def _num_classes(network: Network) -> int:
    return network.config.num_classes if isinstance(network, RTMDet) else network.fc.out_features


def _description(network: Network) -> str:
    kind = network.config.name if isinstance(network, RTMDet) else "the CSPNeXt classifier"
    return f"{kind} with {_num_classes(network)} classes"


def _matched(
    published: Mapping[str, Tensor],
    table: Mapping[str, list[str]],
    network: Network,
    likeness: Callable[[], str | None],
) -> dict[str, Tensor]:
    """The tensors of `table`, under our names and in our types; strict in both directions.

    `likeness` names the member of the family that the weights are of; asked for in errors alone.
    """
    if difference := _difference(published, table, network):
        raise ForeignCheckpoint(_complaint(difference, network, likeness()))
    wanted = network.state_dict()
    ours: dict[str, Tensor] = {}
    for name, names in table.items():
        copies = [published[other] for other in names if other in published]
        if not copies:  # a counter
            copies = [torch.zeros_like(wanted[name], device="cpu")]
        if not all(torch.equal(copies[0], copy) for copy in copies[1:]):
            raise ForeignCheckpoint(f"'{names[0]}' and '{names[-1]}' are one tensor, but differ")
        if copies[0].is_floating_point() and not copies[0].isfinite().all():
            raise ForeignCheckpoint(f"'{names[0]}' has values that are not finite")
        ours[name] = copies[0].to(wanted[name].dtype)
    return ours


@dataclass(frozen=True)
class _Difference:
    """Published names that are missing or too many, and shapes that are wrong."""

    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


def _difference(
    published: Mapping[str, Tensor], table: Mapping[str, list[str]], network: nn.Module
) -> _Difference:
    tensors = network.state_dict()
    wanted = {other: tensors[name].shape for name, names in table.items() for other in names}
    return _Difference(
        missing=[name for name in wanted if name not in published and not name.endswith(_COUNTER)],
        unexpected=[name for name in published if name not in wanted],
        misshapen=[
            f"{name} {list(published[name].shape)} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in published and published[name].shape != shape
        ],
    )


def _complaint(difference: _Difference, network: Network, likeness: str | None) -> str:
    kinds = {
        "of another shape": difference.misshapen,
        "missing": difference.missing,
        "unexpected": difference.unexpected,
    }
    found = "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )
    hint = f". This looks like {likeness}" if likeness else ""
    return f"the weights do not fit {_description(network)}: {found}{hint}"
