"""Folders of packed arrays: `NAME.npy`, one array each, and `meta.json`, which says what they are.

Written once, as a whole; mapped by every process that reads them.
"""

import shutil
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from model.durable import move_into_place, part_of

_META_FILE = "meta.json"

Meta = TypeVar("Meta", bound=BaseModel)


def write_array_folder(folder: Path, meta: BaseModel, arrays: dict[str, NDArray]) -> None:
    """Write a folder in place of the one that may be there; it appears with all bytes on the disk.

    Whoever has the old one open keeps its pages. One process at a time may write a folder.
    """
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, values in arrays.items():
        file = part / f"{name}.npy"
        with part_of(file).open("wb") as open_file:
            np.save(open_file, values, allow_pickle=False)
        move_into_place(part_of(file), file)
    meta_file = part / _META_FILE
    part_of(meta_file).write_text(meta.model_dump_json(indent=2) + "\n", "utf-8")
    move_into_place(part_of(meta_file), meta_file)
    shutil.rmtree(folder, ignore_errors=True)
    move_into_place(part, folder)


def read_meta(folder: Path, kind: type[Meta]) -> Meta:
    """What stands beside the arrays. Raises ValueError: no such folder, or of another kind."""
    try:
        return kind.model_validate_json((folder / _META_FILE).read_bytes())
    except OSError as error:
        raise ValueError(f"{folder}: there is no index of a data set: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError(f"{folder}: is no index of this version; remove the folder") from error


def mapped_array(folder: Path, name: str) -> NDArray:
    """One array, its pages shared by all processes that map it; read-only."""
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
