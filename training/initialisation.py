"""Where the weights of a run start: published files, checkpoints and graphs of ours, or nowhere.

Each way says in plain lines what was taken and what was not, for people to read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from model.checkpoints import exported_weights
from model.checkpoints.checkpoint_files import (
    SUFFIX,
    PublishedCheckpoint,
    load_checkpoint,
    read_published,
)
from model.checkpoints.exported_weights import load_exported
from model.checkpoints.torch_file import UnreadableCheckpoint
from model.classifier import CSPNeXtClassifier
from model.rtmdet import RTMDet
from model.weights import (
    ForeignCheckpoint,
    load_backbone,
    load_common,
    load_published,
    num_published_classes,
    published_task,
    to_published,
)


def initialise(
    network: RTMDet | CSPNeXtClassifier,
    init: Path | str | None,
    *,
    classes: Sequence[str] = (),
) -> list[str]:
    """Load `init` into `network` as far as it fits; returns lines that say what was done.

    A detector of the same task gives everything, but for the classification layer where the
    number of classes differs; of another task what both have in common; a classifier gives its
    backbone. `classes` are the run's, for a word on others of the same number. Raises
    UnreadableCheckpoint, ManifestError, RepositoryError and ForeignCheckpoint (weights of another
    size: names the first tensors that do not fit, with both shapes); then the network is unchanged.
    """
    if init is None:
        return ["the weights start at random: model.init is none"]
    path = Path(init)
    checkpoint = _read(path)
    try:
        return _take(network, checkpoint, path.name, classes)
    except ForeignCheckpoint as error:
        raise ForeignCheckpoint(f"{path}: {error}") from error


def _read(path: Path) -> PublishedCheckpoint:
    if not path.is_file():
        raise UnreadableCheckpoint(
            f"{path}: there is no such file of weights (model.init){_instead_of(path)}"
        )
    if path.suffix == exported_weights.SUFFIX:
        network, manifest = load_exported(path)
    elif path.suffix == SUFFIX:
        network, manifest = load_checkpoint(path)
    else:
        return read_published(path)
    return PublishedCheckpoint(to_published(network), manifest.classes)


def _instead_of(path: Path) -> str:
    """A file of weights of the same name beside the missing one, for the message."""
    for suffix in (SUFFIX, ".pth"):
        if path.name and suffix != path.suffix and (other := path.with_suffix(suffix)).is_file():
            return f"; did you mean {other}, which stands there?"
    return ""


def _take(
    network: RTMDet | CSPNeXtClassifier,
    checkpoint: PublishedCheckpoint,
    name: str,
    classes: Sequence[str],
) -> list[str]:
    weights = checkpoint.weights
    task = published_task(weights)
    own_task = network.config.task if isinstance(network, RTMDet) else None
    if task == own_task and _has_classes(weights):
        kept = load_published(network, weights, class_layer="reinitialise")
        return _same_task(network, checkpoint, name, classes, kept)
    if task is None or not isinstance(network, RTMDet):
        load_backbone(network, weights)
        return [f"the backbone is from {name}; all else starts at random"]
    # By name: the readers of formats do not put classes in the same order.
    same_classes = checkpoint.classes is not None and checkpoint.classes == tuple(classes)
    load_common(network, weights, same_classes=same_classes)
    parts = ["backbone", "neck", "classification towers"]
    if "instance" not in (task, own_task):
        parts.append("box distances")
    if same_classes:
        parts.append("class scores")
    taken = f"{', '.join(parts[:-1])} and {parts[-1]} are taken, and the rest starts at random"
    return [f"{name} is of another task ('{task}', and the run is '{own_task}'): {taken}"]


def _has_classes(weights: Mapping[str, Tensor]) -> bool:
    """Whether there is more than a backbone."""
    return num_published_classes(weights) is not None


def _same_task(
    network: RTMDet | CSPNeXtClassifier,
    checkpoint: PublishedCheckpoint,
    name: str,
    classes: Sequence[str],
    kept: Sequence[str],
) -> list[str]:
    num_theirs = num_published_classes(checkpoint.weights)
    if kept:
        return [
            f"all weights are from {name} but the classification layer, which starts at random: "
            f"the file predicts {_counted(num_theirs)}, and the run {_num_classes(network)}"
        ]
    lines = [f"all weights are from {name}, those of its {_counted(num_theirs)} included"]
    for class_id, (theirs, ours) in enumerate(zip(checkpoint.classes or (), classes, strict=False)):
        if theirs != ours:
            lines.append(
                f"its classes have other names and are taken by position: class {class_id} is "
                f"'{theirs}' there and '{ours}' here"
            )
            break
    return lines


def _counted(num_classes: int | None) -> str:
    return f"{num_classes} class" if num_classes == 1 else f"{num_classes} classes"


def _num_classes(network: RTMDet | CSPNeXtClassifier) -> int:
    return network.config.num_classes if isinstance(network, RTMDet) else network.fc.out_features
