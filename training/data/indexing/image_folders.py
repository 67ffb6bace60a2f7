"""Images sorted into one folder per class, `train/<class>/` and `val/<class>/`, as an index.

As with detection sets, the index is packed arrays in a folder that all processes map.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.data.formats.checks import Findings, broken
from training.data.formats.label_files import IMAGE_SUFFIXES
from training.data.indexing.array_folders import mapped_array, read_meta, write_array_folder
from training.data.indexing.fingerprint import walked
from training.data.indexing.packing import PathColumns, packed_paths, text_at

_VAL_NAMES = ("val", "valid", "validation")


class ImageFolders(NamedTuple):
    """What to train on, and what to evaluate on, if there is such a folder."""

    train: Path
    val: Path | None


class FolderMeta(BaseModel):
    """What stands beside the arrays; `fingerprint` changes with the names of the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["rtmdet-image-folder-1"] = "rtmdet-image-folder-1"
    images: str
    fingerprint: str
    classes: tuple[str, ...]


class FolderIndex:
    """Paths and labels of images, by position; pickled it is the index folder's path."""

    def __init__(self, folder: Path, meta: FolderMeta) -> None:
        self.folder = folder
        self.meta = meta
        self.classes = meta.classes
        #: int32 [n].
        self.labels: NDArray[np.int32] = mapped_array(folder, "labels")
        self._images = Path(meta.images)
        self._path_text = mapped_array(folder, "path_text")
        self._path_offsets = mapped_array(folder, "path_offsets")

    @classmethod
    def open(cls, folder: Path) -> "FolderIndex":
        """Open what `index_image_folder` wrote. Raises ValueError where there is none."""
        return cls(folder.absolute(), read_meta(folder, FolderMeta))

    def __reduce__(self) -> tuple[object, ...]:
        return FolderIndex.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.labels)

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        return self._images / text_at(self._path_text, self._path_offsets, position)

    def label(self, position: int) -> int:
        """The class of the image, a position in `classes`."""
        return int(self.labels[position])


def find_image_folders(path: Path) -> ImageFolders:
    """The folders of the splits below `path`. Raises ValueError where there is none to train on."""
    train = path / "train"
    if not train.is_dir() or not any(entry.is_dir() for entry in train.iterdir()):
        raise ValueError(
            f"{path}: there is no folder train with one folder of images per class "
            "(train/<class>/*.jpg)"
        )
    val = next((path / name for name in _VAL_NAMES if (path / name).is_dir()), None)
    return ImageFolders(train, val)


def index_image_folder(
    images: Path, *, folder: Path, classes: tuple[str, ...] | None = None
) -> FolderIndex:
    """The index of the images in `images`/<class>/ in `folder`: opened if it is there, else built.

    Classes are the names of the folders, sorted; `classes`, where given, must be the same (for
    evaluation: those trained with).

    Raises BrokenData: classes that differ, a class without an image.
    """
    files = _images_by_class(images)
    names = list(files)
    findings = Findings(images)
    if classes is not None:
        _compare_classes(images, names, classes, findings)
    for name in names:
        if not files[name]:
            findings.problem(images / name, "", "the folder of this class holds no image")
    findings.require_none()
    if not names:
        raise broken(images, "there is no folder of a class here")
    meta = FolderMeta(
        images=str(images.absolute()), fingerprint=_fingerprint(files), classes=tuple(names)
    )
    if not _is_current(folder, meta):
        _write(folder, meta, files)
    return FolderIndex.open(folder)


def images_fingerprint(images: Path) -> str:
    """A hex digest that changes with the names of the images in `images`/<class>/."""
    return _fingerprint(_images_by_class(images))


def _images_by_class(images: Path) -> dict[str, list[str]]:
    folders = (entry.name for entry in images.iterdir() if entry.is_dir())
    # Notebooks and file managers leave hidden ones.
    names = sorted(name for name in folders if not name.startswith("."))
    return {name: sorted(_images_below(images / name)) for name in names}


def _compare_classes(
    images: Path, names: list[str], classes: tuple[str, ...], findings: Findings
) -> None:
    for name in sorted(set(classes) - set(names)):
        findings.problem(images / name, "", "there is no folder of this class, which is trained")
    for name in sorted(set(names) - set(classes)):
        findings.problem(images / name, "", "there is no class of this name among those trained")


def _images_below(folder: Path) -> Iterator[str]:
    """Paths relative to the folder of the split."""
    for parent, names in walked(folder):
        place = os.path.relpath(parent, folder.parent)
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield f"{place}/{name}"


def _fingerprint(files: dict[str, list[str]]) -> str:
    digest = hashlib.sha256()
    for paths in files.values():
        for path in paths:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _is_current(folder: Path, meta: FolderMeta) -> bool:
    try:
        return read_meta(folder, FolderMeta) == meta
    except ValueError:
        return False


def _write(folder: Path, meta: FolderMeta, files: dict[str, list[str]]) -> None:
    paths = PathColumns()
    for name in meta.classes:
        for path in files[name]:
            paths.add(path)
    counts = [len(files[name]) for name in meta.classes]
    arrays = packed_paths(paths) | {
        "labels": np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    }
    write_array_folder(folder, meta, arrays)
