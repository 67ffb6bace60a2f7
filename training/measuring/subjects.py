"""What is evaluated: an exported model, or weights in a file. Torch-free.

WHAT on the command line is a run's folder, a checkpoint, an exported model's folder or graph, or
the name of a model in the repository.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from model.manifest import MANIFEST_FILE
from model.repository import ModelRepository, RepositoryModel

#: Suffixes of files of weights: ours, and published ones.
_WEIGHTS = (".safetensors", ".pth", ".pt")

#: Weights in a run's folder, those to take first.
_WEIGHTS_OF_A_RUN = ("best.safetensors", "last.safetensors", "best.pth", "last.pth")

_CONFIG_OF_A_RUN = "config.json"


@dataclass(frozen=True)
class WeightsFile:
    """Weights that torch runs; `run` is the folder of the run that they are of, if of one."""

    path: Path
    run: Path | None = None


Subject = WeightsFile | RepositoryModel


def find_subject(what: str, repository: Path) -> Subject:
    """What `what` stands for: something on disk, or else a model of the repository.

    Raises ValueError, which names what there is, where it stands for nothing.
    """
    path = Path(what)
    if path.is_dir():
        found = _in_folder(path)
        if found is not None:
            return found
    elif path.is_file():
        return _file(path)
    name, separator, version = what.partition(":")
    if _looks_like_a_path(what):
        raise ValueError(f"{what}: {_what_there_is(path)}")
    if separator and not version.isdecimal():
        raise ValueError(f"'{what}': a version is written NAME:2, with its number")
    return ModelRepository(repository).open(name, int(version) if separator else None)


def _in_folder(path: Path) -> Subject | None:
    # Of `.` and `runs/a/..` the name is needed too.
    folder = Path(os.path.abspath(path))
    if (folder / MANIFEST_FILE).is_file():
        return ModelRepository(folder.parent).open(folder.name)
    if folder.name.isdecimal() and (folder.parent / MANIFEST_FILE).is_file():
        return ModelRepository(folder.parent.parent).open(folder.parent.name, int(folder.name))
    for name in _WEIGHTS_OF_A_RUN:
        if (path / name).is_file():
            return WeightsFile(path / name, path)
    if (path / _CONFIG_OF_A_RUN).is_file():
        raise ValueError(
            f"{path}: the run has written no weights yet; it does after its first evaluation"
        )
    return None


def _file(path: Path) -> Subject:
    if path.suffix in _WEIGHTS:
        run = path.parent if (path.parent / _CONFIG_OF_A_RUN).is_file() else None
        return WeightsFile(path, run if path.name in _WEIGHTS_OF_A_RUN else None)
    if path.suffix == ".onnx":
        found = _in_folder(path.parent)
        if isinstance(found, RepositoryModel):
            return found
    raise ValueError(
        f"{path}: neither weights (NAME.safetensors, NAME.pth) nor the graph of a model in a "
        "repository"
    )


def _looks_like_a_path(what: str) -> bool:
    return "/" in what or what in (".", "..") or Path(what).suffix in (*_WEIGHTS, ".onnx")


def _what_there_is(path: Path) -> str:
    if path.is_dir():
        return "neither a run's folder nor that of an exported model"
    if re.search(r":\d+$", path.name) and path.with_name(path.name.rpartition(":")[0]).is_dir():
        return "there is no such file; a version's folder is named as MODEL/2"
    return "there is no such file or folder"
