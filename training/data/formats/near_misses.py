"""What a folder lacks to be a data set, where it is nearly one: for the message that refuses it."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from training.data.formats.label_files import IMAGE_SUFFIXES

#: So many entries of a folder are looked at: enough to see what it is.
_MAX_ENTRIES = 1000


def near_miss(
    path: Path,
    is_data_set: Callable[[Path], bool],
    *,
    train_names: Sequence[str],
    labels_of_dota: Sequence[str],
) -> str | None:
    """What is missing at `path`, where no data set was found; None where nothing resembles one.

    `train_names` are the names that the split to train on may have.
    """
    if path.is_file():
        return _of_a_file(path, is_data_set)
    for folder in _folders(path):
        if is_data_set(folder):
            return f"there is one in {folder}, give that folder"
    for name in train_names:
        if lacking := _of_a_split(path, name, labels_of_dota):
            return lacking
    if _has_images(path):
        return "there are images, but no annotations"
    return None


def _of_a_file(path: Path, is_data_set: Callable[[Path], bool]) -> str:
    folders = [path.parent, path.parent.parent]
    if path.parent.name == "annotations":
        # It would be recognised, but COCO's images lie beside it.
        folders.reverse()
    for folder in folders:
        if is_data_set(folder):
            return f"it is a file, give the data set's folder, {folder}"
    return "it is a file, give the data set's folder"


def _of_a_split(root: Path, name: str, labels_of_dota: Sequence[str]) -> str | None:
    split = root / name
    if (split / "images").is_dir():
        looked_for = ", ".join(("labels", *labels_of_dota))
        return (
            f"{name}/images is there, but no folder of labels is beside it (looked for in {name}: "
            f"{looked_for}), and no COCO JSON"
        )
    if (root / "images" / name).is_dir():
        return f"images/{name} is there, but neither labels/{name} (YOLO) nor a COCO JSON"
    if any(_has_images(folder) for folder in _folders(split)):
        return (
            f"{name} holds folders of images, as if one for each class: that is for the recipes "
            "of classifiers (cspnext-...), and detectors need annotations"
        )
    if _has_images(split):
        return f"{name} holds images, but there are no annotations of them"
    return None


def _has_images(folder: Path) -> bool:
    return any(
        Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and Path(entry.path).is_file()
        for entry in _entries(folder)
    )


def _folders(folder: Path) -> list[Path]:
    # A path says no of links that turn in circles, where an entry of the folder is an error.
    found = (path for entry in _entries(folder) if (path := Path(entry.path)).is_dir())
    return sorted(path for path in found if not path.name.startswith("."))


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from islice(entries, _MAX_ENTRIES)
    except OSError:
        # Missing, or not ours to read: nothing is to be seen there.
        return
