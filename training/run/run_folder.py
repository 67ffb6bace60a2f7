"""The folder of one run: what it is told, where its parts lie, who trains in it, how it stands.

config.json  status.json  lock  progress.jsonl  checkpoints/  tensorboard/  samples/  index/
evaluations/  problems/  ranks/

`config.json` is written once and says which run this is; `status.json` is replaced whole, for
other programs to read. Only rank 0 creates or resumes; other ranks take the paths. Torch-free.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from model.durable import move_into_place, part_of

State = Literal["running", "interrupted", "finished", "failed"]

#: So many differences between two runs are named; one is mostly enough to see what happened.
_MAX_NAMED = 5

#: What the system says of a path that can hold no run; a full disk is not the caller's mistake.
_CANNOT_BE_OUT = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EEXIST,
}  # fmt: skip


class RunRefused(ValueError):
    """A folder that this run cannot train in, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands. Times are ISO 8601 in UTC; `exit_code` and `message` come at the end."""

    state: State
    step: int
    epoch: int
    exit_code: int | None
    message: str | None
    pid: int
    started: str
    updated: str


@dataclass(frozen=True)
class RunPaths:
    """Where the parts of a run lie; nothing is created."""

    folder: Path

    @property
    def config(self) -> Path:
        """What the run is told, and of which data."""
        return self.folder / "config.json"

    @property
    def status(self) -> Path:
        """How the run stands."""
        return self.folder / "status.json"

    @property
    def lock(self) -> Path:
        """Locked by the process that trains."""
        return self.folder / "lock"

    @property
    def progress(self) -> Path:
        """What happened, a JSON object per line."""
        return self.folder / "progress.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's curves."""
        return self.folder / "tensorboard"

    @property
    def samples(self) -> Path:
        """Folder of pictures of batches."""
        return self.folder / "samples"

    @property
    def index(self) -> Path:
        """Folder of the indexes of the data sets."""
        return self.folder / "index"

    @property
    def evaluations(self) -> Path:
        """Folder of weights that are still to be evaluated, and of what the process prints."""
        return self.folder / "evaluations"

    @property
    def problems(self) -> Path:
        """Folder of batches that gave NaN or Inf."""
        return self.folder / "problems"

    @property
    def ranks(self) -> Path:
        """Folder of what ranks other than 0 print."""
        return self.folder / "ranks"


class RunFolder:
    """A run's folder, locked for this process until `close` or the end of the process.

    `config` and `identity` are what the run was created with, as JSON has them.
    """

    def __init__(self, paths: RunPaths, lock: IO[str]) -> None:
        self.paths = paths
        self._lock = lock
        content = _read_config(paths.config)
        self.config: dict[str, Any] = content["config"]
        self.identity: dict[str, Any] = content["identity"]
        self._started = _now()

    @classmethod
    def create(
        cls, folder: Path, config: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> "RunFolder":
        """A new run in a folder that is missing or empty.

        `config`: the whole configuration, `identity`: what else makes the run what it is (digest
        of the data, classes); both as JSON can hold them. Raises RunRefused for a folder that
        holds something, and names how a run that it holds differs from this one.
        """
        paths = RunPaths(folder)
        content = _as_json({"config": config, "identity": identity})
        with refusing_what_cannot_be_written(folder):
            _refuse_what_is_there(paths, content)
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(paths)
        try:
            # Again, for another process may have been faster.
            _refuse_what_is_there(paths, content)
            _replace(paths.config, content)
            return cls(paths, lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def resume(
        cls,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        identity: Mapping[str, Any] | None = None,
        *,
        may_differ: tuple[str, ...] = (),
    ) -> "RunFolder":
        """The run that `folder` holds.

        Where `config` or `identity` are given they must be those of the run, but for the settings
        under the dotted names `may_differ`. Raises RunRefused, which names the differences, and
        for a folder without a run.
        """
        paths = RunPaths(folder)
        there = read_config(folder)
        here = _as_json({
            "config": there["config"] if config is None else config,
            "identity": there["identity"] if identity is None else identity,
        })  # fmt: skip
        free = tuple(f"config.{name}" for name in may_differ)
        if found := differences(there, here, may_differ=free):
            raise RunRefused(
                f"{folder} holds another run: {_listed(found)}; resume it as it was started, or "
                "start this one with another --out"
            )
        with refusing_what_cannot_be_written(folder):
            lock = _locked(paths)
        return cls(paths, lock)

    def write_status(
        self,
        state: State,
        *,
        step: int,
        epoch: int,
        exit_code: int | None = None,
        message: str | None = None,
    ) -> None:
        """Replace `status.json`. Raises OSError on a full disk; then the old one stays."""
        status = RunStatus(
            state=state, step=step, epoch=epoch, exit_code=exit_code, message=message,
            pid=os.getpid(), started=self._started, updated=_now(),
        )  # fmt: skip
        _replace(self.paths.status, asdict(status))

    def change_config(self, config: Mapping[str, Any]) -> None:
        """Go on with another configuration. Raises OSError on a full disk; then the old stays."""
        content = _as_json({"config": config, "identity": self.identity})
        if content["config"] != self.config:
            _replace(self.paths.config, content)
            self.config = content["config"]

    def discard(self) -> None:
        """Leave nothing of a run that never began; what is not a run's stays."""
        for path in (self.paths.config, self.paths.status, self.paths.lock):
            path.unlink(missing_ok=True)
        for folder in (self.paths.index, self.paths.samples):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty
            self.paths.folder.rmdir()
        self.close()

    def close(self) -> None:
        """Let others train here."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_config(folder: Path) -> dict[str, Any]:
    """The `config` and `identity` of the run in `folder`. Raises RunRefused where there is none."""
    paths = RunPaths(folder)
    with refusing_what_cannot_be_written(folder):
        is_run = paths.config.is_file()
    if not is_run:
        found = "is empty" if folder.is_dir() and not _foreign(paths) else "holds no run"
        found = found if folder.exists() else "does not exist"
        raise RunRefused(
            f"there is nothing to resume: {folder} {found}; leave --resume out to start a run"
        )
    return _read_config(paths.config)


def read_status(folder: Path) -> RunStatus | None:
    """How the run in `folder` stands; None where it has not said so yet."""
    try:
        return RunStatus(**json.loads(RunPaths(folder).status.read_bytes()))
    except FileNotFoundError:
        return None


@contextmanager
def refusing_what_cannot_be_written(folder: Path) -> Iterator[None]:
    """Raise RunRefused where a path in or above `folder` is at fault; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_BE_OUT:
            raise
        raise RunRefused(
            f"{folder} cannot hold a run ({os.strerror(error.errno)}): give a folder that can be "
            "written as --out"
        ) from error


def differences(there: Any, here: Any, *, may_differ: tuple[str, ...] = ()) -> list[str]:
    """How two nested JSON values differ, "name: THERE there, HERE here", by dotted names."""
    ours, theirs = dict(_flat(here)), dict(_flat(there))
    return [
        f"{name}: {theirs.get(name, 'unset')} there, {ours.get(name, 'unset')} here"
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name, ...) != ours.get(name, ...)
        and not any(f"{name}.".startswith(f"{free}.") for free in may_differ)
    ]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name -> value as text. Lists are values."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, json.dumps(value)


def _listed(found: list[str]) -> str:
    # The parts of `config.json` are our business alone.
    names = [line.removeprefix("config.").removeprefix("identity.") for line in found]
    rest = len(names) - _MAX_NAMED
    return "; ".join(names[:_MAX_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _foreign(paths: RunPaths) -> list[str]:
    """What is in the folder beside the lock."""
    if not paths.folder.is_dir():
        return []
    return sorted(path.name for path in paths.folder.iterdir() if path != paths.lock)


def _refuse_what_is_there(paths: RunPaths, content: Mapping[str, Any]) -> None:
    folder = paths.folder
    if folder.exists() and not folder.is_dir():
        raise RunRefused(f"{folder} is a file: give a folder as --out")
    if paths.config.is_file():
        found = differences(_read_config(paths.config), content)
        if found:
            raise RunRefused(
                f"{folder} holds another run: {_listed(found)}; give another --out, or resume "
                "that run with --resume"
            )
        raise RunRefused(f"{folder} holds this run already: go on with it by --resume")
    # A kill while the folder was made leaves a half-written configuration; the launcher of several
    # ranks has made their logs before.
    ours = (part_of(paths.config).name, paths.ranks.name)
    if foreign := [name for name in _foreign(paths) if name not in ours]:
        raise RunRefused(
            f"{folder} holds something that is no run ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}): give an empty or a new folder as --out"
        )


def _locked(paths: RunPaths) -> IO[str]:
    """The lock's file, locked; the system unlocks it when the process ends, however it ends."""
    lock = open(paths.lock, "a+", encoding="ascii")  # noqa: SIM115 - open as long as the run
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise RunRefused(
            f"{holder} trains in {paths.folder} already: wait for it, or give another --out"
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        return {"config": content["config"], "identity": content["identity"]}
    except (ValueError, KeyError, TypeError):
        raise RunRefused(
            f"{path} is not what a run writes there: give another --out, or put it back"
        ) from None


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples become lists, so that what is given compares with what was written."""
    return json.loads(json.dumps(value, default=dict))


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    part = part_of(path)
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    move_into_place(part, path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
