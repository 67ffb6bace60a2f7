"""Checkpoints that are there as a whole or not at all, also after `kill -9` or on a full disk.

checkpoints/step-00001234/  weights, average, optimizer, random (.safetensors), state.json
checkpoints/latest          the name of the latest, in a small text file

A checkpoint is written under a temporary name, reaches the disk, gets its name, and is named in
`latest`; only then do older ones go. Only rank 0 saves; every rank may load. Nothing is pickled.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from model.durable import move_into_place, part_of
from training.state.optimizer_state import OptimizerState
from training.state.random_state import RandomState
from training.state.versions import library_versions

#: What the layout of `state.json` is called; another number is another layout.
FORMAT = 1

#: Room that must be left beside the checkpoint, for the small files of the run.
_SPARE_BYTES = 8 << 20

_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")


class CheckpointFailed(OSError):
    """A checkpoint could not be written; what was saved before is still there."""

    def __str__(self) -> str:
        # Without the number that OSError puts in front: the line says what to do.
        return str(self.strerror)


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not what was saved, or no checkpoint at all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingState:
    """Everything that the next step depends on.

    `epoch` and `batch` count from 0 and say which batch comes next; `step` counts finished steps
    of the optimizer. `average` holds the averaged weights after `average_updates` updates.
    `random` has an entry per rank. `best` is the best metric so far. `extra` takes anything that
    JSON can hold.
    """

    step: int
    epoch: int
    batch: int
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    average_updates: int
    optimizer: OptimizerState
    random: Sequence[RandomState]
    best: float | None = None
    rollbacks: int = 0
    versions: Mapping[str, str] = field(default_factory=library_versions)
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it. Raises OSError, also on a short write."""
    with open(path, "xb", buffering=0) as file:
        rest = memoryview(content)
        while rest:
            written = file.write(rest)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            rest = rest[written:]
        os.fsync(file.fileno())


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


class CheckpointStore:
    """The checkpoints of one run, in `folder`; the newest `keep` are kept.

    `warn` is given a line about every checkpoint that turns out damaged, and about other versions
    of libraries. `write` puts the bytes of a file on the disk; a test may put another in its place.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        *,
        warn: Callable[[str], None] = _say,
        write: Callable[[Path, bytes], None] = write_durably,
    ) -> None:
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, got {keep}")
        self.folder = folder
        self._keep = keep
        self._warn = warn
        self._write = write

    def save(self, state: TrainingState) -> Path:
        """Save `state` as the latest checkpoint; returns its folder.

        Raises CheckpointFailed when the disk is full or fails; then the folder is as it was.
        """
        try:
            return self._save(state)
        except OSError as error:
            raise self._failure(error) from error

    def load_latest(self) -> TrainingState | None:
        """The latest checkpoint that is whole; None where nothing has been saved.

        A damaged one is warned of, and the one before is taken. Raises DamagedCheckpoint when
        there are checkpoints and none can be used.
        """
        folders = self.saved()
        latest = self._latest()
        # The pointer first: after it, a newer folder is one that was never announced.
        folders.sort(key=lambda folder: (folder == latest, _order(folder)), reverse=True)
        for folder in folders:
            try:
                state = read_checkpoint(folder)
            except (DamagedCheckpoint, OSError) as error:
                self._warn(f"the checkpoint {folder.name} is damaged and left out: {error}")
            else:
                self._compare_versions(state)
                return state
        if folders:
            raise DamagedCheckpoint(f"none of the {len(folders)} checkpoints in {self.folder} is "
                                    "whole: start again in another folder")  # fmt: skip
        return None

    def saved(self) -> list[Path]:
        """The folders of all checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        folders = (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        return sorted(folders, key=_order)

    def _save(self, state: TrainingState) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_parts()
        files = _files(state)
        self._check_space(sum(map(len, files.values())))
        folder = self._free_name(state.step)
        part = part_of(folder)
        try:
            part.mkdir()
            for name, content in files.items():
                self._write(part / name, content)
            move_into_place(part, folder)
            self._point_to(folder)
        except OSError:
            self._remove_parts()
            raise
        self._remove_old(folder)
        return folder

    def _free_name(self, step: int) -> Path:
        """A name that no checkpoint has: the one of this step may be the only good one."""
        name, attempt = f"step-{step:08d}", 0
        while (folder := self.folder / (f"{name}-{attempt}" if attempt else name)).exists():
            attempt += 1
        return folder

    def _check_space(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes + _SPARE_BYTES:
            reason = f"{num_bytes / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free"
            raise OSError(errno.ENOSPC, reason, str(self.folder))

    def _point_to(self, folder: Path) -> None:
        path = self.folder / "latest"
        self._write(part_of(path), f"{folder.name}\n".encode())
        move_into_place(part_of(path), path)

    def _latest(self) -> Path | None:
        """The checkpoint that `latest` names; None where it names none that exists."""
        try:
            name = (self.folder / "latest").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        folder = self.folder / name
        return folder if _NAME.fullmatch(name) and folder.is_dir() else None

    def _compare_versions(self, state: TrainingState) -> None:
        ours = library_versions()
        if other := [
            f"{name} {theirs} (now {ours.get(name, 'none')})"
            for name, theirs in state.versions.items()
            if ours.get(name) != theirs
        ]:
            self._warn(f"saved with {', '.join(other)}: the run goes on, but not to the bit")

    def _remove_old(self, newest: Path) -> None:
        """Keep `newest` and those just before it.

        What has a later step is left of a run that was resumed from before it.
        """
        before = [folder for folder in self.saved() if _order(folder) < _order(newest)]
        kept = {newest, *before[len(before) - (self._keep - 1) :]}
        for folder in self.saved():
            if folder not in kept:
                # Under a temporary name, so that half of a removed one is never taken for whole.
                os.replace(folder, part_of(folder))
        self._remove_parts()

    def _remove_parts(self) -> None:
        """What a kill left, and what is to go."""
        for part in self.folder.glob("*.part"):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> CheckpointFailed:
        latest = self._latest()
        kept = f"{latest.name} is kept" if latest else "there is none yet"
        remedy = _REMEDIES.get(error.errno or 0, "mend the disk")
        reason = error.strerror or str(error)
        text = (
            f"no checkpoint could be saved in {self.folder}: {reason}. {remedy}, then go on with "
            f"--resume; the last good checkpoint: {kept}"
        )
        return CheckpointFailed(error.errno, text)


_REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of your quota",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "Make the folder writable",
    errno.EROFS: "Make the folder writable",
}


def _order(folder: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(folder.name)
    assert match
    return int(match[1]), int(match[2] or 0)


_VALUES = (
    "step", "epoch", "batch", "average_updates", "best", "rollbacks", "versions", "extra",
)  # fmt: skip


def _files(state: TrainingState) -> dict[str, bytes]:
    """Name -> content of the files of a checkpoint; `state.json`, with the digests, last."""
    random = {
        f"{rank}/{name}": tensor
        for rank, states in enumerate(state.random)
        for name, tensor in states.items()
    }
    tensors = {
        "weights.safetensors": state.weights,
        "average.safetensors": state.average,
        "optimizer.safetensors": state.optimizer.tensors,
        "random.safetensors": random,
    }
    files = {name: save(_plain(named)) for name, named in tensors.items()}
    content = {
        "format": FORMAT,
        **{name: getattr(state, name) for name in _VALUES},
        "optimizer_groups": list(state.optimizer.groups),
        "num_ranks": len(state.random),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    text = json.dumps({**content, "sha256": _digest(content)}, indent=1, default=dict)
    return {**files, "state.json": text.encode()}


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file keeps values, not strides."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _digest(content: Mapping[str, Any]) -> str:
    """Of what `state.json` says, whatever its layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=dict).encode()).hexdigest()


def read_checkpoint(folder: Path) -> TrainingState:
    """Read one checkpoint, every byte verified. Raises DamagedCheckpoint; OSError if unreadable."""
    content = _read_state(folder / "state.json")
    tensors = {name: load(_read(folder / name, content["files"])) for name in content["files"]}
    random: list[RandomState] = [{} for _ in range(content["num_ranks"])]
    for name, tensor in tensors["random.safetensors"].items():
        rank, _, kind = name.partition("/")
        random[int(rank)][kind] = tensor
    return TrainingState(
        weights=tensors["weights.safetensors"],
        average=tensors["average.safetensors"],
        optimizer=OptimizerState(
            tensors=tensors["optimizer.safetensors"], groups=content["optimizer_groups"]
        ),
        random=random,
        **{name: content[name] for name in _VALUES},
    )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        digest = content.pop("sha256")
    except FileNotFoundError:
        raise DamagedCheckpoint("state.json is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DamagedCheckpoint("state.json cannot be read") from None
    if digest != _digest(content):
        raise DamagedCheckpoint("state.json has changed since it was saved")
    if content["format"] != FORMAT:
        raise DamagedCheckpoint(
            f"state.json has the layout {content['format']}, and this version reads {FORMAT}"
        )
    return content


def _read(path: Path, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path.name} is missing") from None
    expected = files[path.name]
    if len(content) != expected["bytes"]:
        raise DamagedCheckpoint(f"{path.name} has {len(content)} of its {expected['bytes']} bytes")
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DamagedCheckpoint(f"{path.name} has changed since it was saved")
    return content
