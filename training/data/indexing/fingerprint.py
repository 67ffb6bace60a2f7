"""Whether a data set is the one that an index was built from, told without reading it.

Sizes and times of the files with annotations and the names of images; the pixels are not looked at.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from training.data.formats.layouts import DataSource
from training.data.formats.yolo import label_folder


def fingerprint(source: DataSource) -> str:
    """A hex digest that changes with the source's files."""
    digest = hashlib.sha256()
    for line in _lines(source):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _lines(source: DataSource) -> Iterator[str]:
    yield repr((source.format, source.split, source.names))
    # COCO's JSON alone says which images there are.
    for place in (*source.annotations, *(() if source.format == "coco" else source.images)):
        yield from _state(place, with_times=place in source.annotations or place.is_file())
        labels = label_folder(place) if source.format == "yolo" and place.is_dir() else None
        if labels is not None and labels.is_dir():
            yield from _state(labels, with_times=True)
    if source.format == "coco":
        yield from map(str, source.images)


def _state(place: Path, *, with_times: bool) -> Iterator[str]:
    if not place.is_dir():
        yield _file_state(place)
        return
    for folder, files in walked(place):
        yield folder
        for name in files:
            yield _file_state(Path(folder, name)) if with_times else name


def walked(place: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder in and below `place` with the names of its files, sorted.

    Links are followed, but no folder is entered twice: links may lead back to where they lie.
    """
    entered: set[str] = set()
    for folder, subfolders, files in os.walk(place, followlinks=True):
        subfolders.sort()
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        yield folder, sorted(files)


def _file_state(file: Path) -> str:
    try:
        state = file.stat()
    except OSError:
        return f"{file} missing"
    return f"{file} {state.st_size} {state.st_mtime_ns}"
