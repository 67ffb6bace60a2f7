"""What `rtmdet models import` and `rtmdet export` do with a file, before any graph is written.

A published file says little of itself; what it does not say is taken from the caller, from the
table of published files (which a file is known in by its sha256), or from the weights' shapes.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.checkpoints.checkpoint_files import (
    SUFFIX,
    PublishedCheckpoint,
    Which,
    load_checkpoint,
    read_published,
    save_checkpoint,
)
from model.checkpoints.class_names import COCO, DOTA, checked_classes
from model.checkpoints.published import PUBLISHED, PublishedModel
from model.config import CLASSIFIERS, VARIANTS, variant
from model.manifest import CheckpointManifest, Source, file_sha256, valid_model_name
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import ForeignCheckpoint, load_published, num_published_classes, recognise

#: What every run calls its checkpoints; its folder says which run it was.
_NAMES_IN_A_RUN = ("best", "last")


@dataclass(frozen=True)
class Wanted:
    """What the caller says of a file; the rest is found out.

    `input_size` is (height, width) in pixels.
    """

    variant: str | None = None
    classes: tuple[str, ...] | None = None
    name: str | None = None
    input_size: tuple[int, int] | None = None
    which: Which = "ema"


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A network, what it is, and the name that it goes by; in evaluation mode."""

    network: RTMDet
    manifest: CheckpointManifest
    name: str


def open_checkpoint(file: Path, wanted: Wanted) -> OpenedCheckpoint:
    """Open a checkpoint of ours (`.safetensors`) or a published file.

    Raises ManifestError, UnreadableCheckpoint, ForeignCheckpoint, and ValueError where neither
    the file nor the caller says enough.
    """
    if file.suffix == SUFFIX:
        return _open_ours(file, wanted)
    checkpoint = read_published(file, which=wanted.which)
    digest = file_sha256(file)
    published = _published_file(digest)
    config = variant(_variant_name(file, wanted, checkpoint, published))
    classes = _classes(file, wanted, checkpoint, published)
    network = build_rtmdet(config.with_classes(len(classes)))
    try:
        load_published(network, checkpoint.weights)
    except ForeignCheckpoint as error:
        raise ForeignCheckpoint(f"{file}: {error}") from error
    manifest = CheckpointManifest(
        variant=config.name,
        task=config.task,
        classes=classes,
        input_size=wanted.input_size or config.input_size,
        weights_sha256=digest,
        source=_source(file, digest, published),
        metrics=published.fractions if published else {},
    )
    default = published.name if published else f"{config.name}-{_data_set(classes)}"
    return OpenedCheckpoint(network.eval(), manifest, valid_model_name(wanted.name or default))


def _open_ours(file: Path, wanted: Wanted) -> OpenedCheckpoint:
    network, manifest = load_checkpoint(file)
    for said, known in ((wanted.variant, manifest.variant), (wanted.classes, manifest.classes)):
        if said is not None and said != known:
            raise ValueError(f"{file}: its manifest says {known}, not {said}")
    if wanted.input_size is not None:
        manifest = manifest.model_copy(update={"input_size": wanted.input_size})
    return OpenedCheckpoint(network, manifest, wanted.name or _own_name(file))


def _own_name(file: Path) -> str:
    """The name of a checkpoint of ours: the file's, or of `best` and `last` the run's."""
    if file.stem in _NAMES_IN_A_RUN:
        with suppress(ValueError):
            # A path such as ../best.safetensors has the name in what it leads to.
            return valid_model_name(Path(os.path.abspath(file)).parent.name)
    return file.stem


def import_checkpoint(opened: OpenedCheckpoint, folder: Path, *, overwrite: bool = False) -> Path:
    """Write what was opened as `folder/NAME.safetensors` and its manifest; gives the path.

    The same import once more changes nothing. Raises ValueError for a name that is none, or that
    something else has, unless `overwrite`.
    """
    path = folder / f"{valid_model_name(opened.name)}{SUFFIX}"
    if path.exists() and not overwrite:
        if _is_the_same(path, opened.manifest):
            return path
        raise ValueError(f"{path} is there already: choose another --name, or say --overwrite")
    save_checkpoint(
        opened.network,
        path,
        classes=opened.manifest.classes,
        source=opened.manifest.source,
        input_size=opened.manifest.input_size,
        metrics=opened.manifest.metrics,
    )
    return path


def _is_the_same(path: Path, manifest: CheckpointManifest) -> bool:
    """Whether the checkpoint at `path` came from the same file in the same way."""
    try:
        _, existing = load_checkpoint(path)
    except ValueError:
        return False
    return existing.model_copy(update={"weights_sha256": manifest.weights_sha256}) == manifest


def _published_file(sha256: str) -> PublishedModel | None:
    """The published file that has this digest."""
    for published in PUBLISHED.values():
        if sha256.startswith(published.sha256_prefix):
            return published
    return None


def _variant_name(
    file: Path, wanted: Wanted, checkpoint: PublishedCheckpoint, published: PublishedModel | None
) -> str:
    if wanted.variant is not None:
        return wanted.variant
    name = published.variant if published else recognise(checkpoint.weights)
    if name is None:
        raise ForeignCheckpoint(
            f"{file}: its weights fit no variant of the family ({', '.join(VARIANTS)})"
        )
    if name in CLASSIFIERS:
        raise ForeignCheckpoint(
            f"{file}: it is the classifier {name}, which detects nothing; "
            "its backbone is where training starts from"
        )
    return name


def _classes(
    file: Path, wanted: Wanted, checkpoint: PublishedCheckpoint, published: PublishedModel | None
) -> tuple[str, ...]:
    known = published.classes if published else None
    classes = wanted.classes or checkpoint.classes or known
    num_classes = num_published_classes(checkpoint.weights)
    if not classes:
        number = f"{num_classes} " if num_classes else ""
        raise ValueError(f"{file}: it does not name its {number}classes: name them with --classes")
    if num_classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"{file}: its weights predict {num_classes} classes, but {len(classes)} are named"
        )
    return checked_classes(classes)


def _source(file: Path, sha256: str, published: PublishedModel | None) -> Source:
    if published is None:
        return Source(kind="imported", file=file.name, sha256=sha256)
    return Source(
        kind="published",
        file=published.file_name,
        sha256=sha256,
        url=published.url,
        dataset=published.dataset,
    )


def _data_set(classes: tuple[str, ...]) -> str:
    """The last part of a name that nobody chose."""
    if classes == COCO:
        return "coco"
    if classes == DOTA:
        return "dota"
    if len(classes) == 1:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", classes[0])
    return "custom"
