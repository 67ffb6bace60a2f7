"""Files that are there as a whole or not at all, also after a power cut. Torch-free."""

import os
import shutil
from pathlib import Path


def part_of(path: Path) -> Path:
    """Where `path` is written until it is complete: beside it, on the same file system."""
    return path.with_name(path.name + ".part")


def move_into_place(part: Path, path: Path) -> None:
    """Give the finished file `part` its name `path`, once its bytes are on the disk."""
    _sync(part)
    os.replace(part, path)
    # The new name is an entry in the folder, which has to reach the disk too.
    _sync(path.parent)


def copy_into_place(source: Path, path: Path) -> None:
    """Give `path` the content of `source`, a file that is never changed, only replaced."""
    part = part_of(path)
    part.unlink(missing_ok=True)
    try:
        # The same file under a second name, where the file system can do that.
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    move_into_place(part, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
