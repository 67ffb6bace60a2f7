"""What writes a data set of some format: the siblings `coco`, `dota` and `yolo`.

Writers write annotations; who calls them puts the images where they belong.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from training.data.formats.layouts import Split
from training.data.formats.records import ImageRecord


class SetWriter(Protocol):
    """Takes a data set image by image. What it cannot carry over it counts in its `losses`."""

    #: Whether annotations count pixels of the pictures as viewers show them; else as stored.
    is_upright: bool

    def image_folder(self, split: Split) -> Path:
        """Where the images of a split belong."""
        ...

    def add(self, split: Split, image: ImageRecord, name: str) -> None:
        """Write the annotations of an image, whose file has that name in the new set."""
        ...

    def finish(self) -> None:
        """Write what needs to know all images."""
        ...


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Where to write what becomes `folder` once all is well; nothing is left of it otherwise.

    Raises ValueError if `folder` holds something already, or cannot be replaced by another.
    """
    # Said now, not when hours of work are done.
    if folder.name in ("", "..") or folder.is_mount():
        raise ValueError(f"{folder} cannot be made as a whole; name a new folder, in it perhaps")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ValueError(f"{folder} holds something already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's folders are private
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_lines(file: Path, lines: list[str]) -> None:
    """A text file of these lines, and the folder that it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
