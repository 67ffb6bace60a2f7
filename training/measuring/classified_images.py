"""Images of an evaluation that have one class each: folders named after the classes."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from training.data.formats.layouts import Split
from training.data.indexing.image_folders import FolderIndex, index_image_folder
from training.measuring.data import listed

#: How folders of a split are called.
_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
}


class LabelledForClassifier:
    """Images whose labels are the classifier's, some of all where `max_images` is set.

    Classes are found by name. Where the classifier names none, it must have as many as there are
    folders. Raises ValueError where that does not fit.
    """

    def __init__(
        self, index: FolderIndex, classes: Sequence[str], max_images: int | None = None
    ) -> None:
        self.classes = tuple(classes)
        self._index = index
        labels = {name: label for label, name in enumerate(classes)}
        known = np.array([labels.get(name, -1) for name in index.classes], np.int64)
        self.unknown = tuple(name for name in index.classes if name not in labels)
        self.absent = tuple(name for name in classes if name not in index.classes)
        if len(self.unknown) == len(index.classes):
            raise ValueError(
                f"{index.meta.images}: no folder has the name of one of the model's classes: there "
                f"are {listed(index.classes)}, the model has {listed(self.classes)}"
            )
        self._labels = known[index.labels]
        positions = np.flatnonzero(self._labels >= 0)
        if max_images is not None and max_images < len(positions):
            positions = positions[np.arange(max_images) * len(positions) // max_images]
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        return self._index.image_path(int(self._positions[position]))

    def label(self, position: int) -> int:
        """Its class, a position in `classes`."""
        return int(self._labels[self._positions[position]])

    def remarks(self) -> list[str]:
        """What was noticed, a line each."""
        lines = []
        if self.unknown:
            lines.append(f"the model does not know {listed(self.unknown)}: not evaluated")
        if self.absent:
            lines.append(f"the data have no class {listed(self.absent)}: not evaluated")
        return lines


def open_folders(path: Path, split: Split, stack: ExitStack) -> FolderIndex:
    """The images of a split, `path`/val/CLASS/*; `stack` removes the index. Raises ValueError."""
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such folder")
    folders = [path / name for name in _FOLDERS[split]]
    images = next((folder for folder in folders if folder.is_dir()), None)
    if images is None:
        raise ValueError(
            f"{path}: there is no folder {split} with one folder of images per class "
            f"({split}/<class>/*.jpg)"
        )
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rtmdet-eval-"))
    return index_image_folder(images, folder=Path(folder) / "index")
