"""What happens in a run, as `progress.jsonl`: a JSON object per line, for other programs to follow.

Every record has `kind` and `time` (seconds since 1970). The file is only ever appended to: a run
that is resumed from an earlier step says so in a `resume` record, and what was recorded after
that step counts no more (`current_records`). Torch-free; losses may be tensors nevertheless.
"""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsFloat

Kind = Literal[
    "start", "step", "epoch", "evaluation", "checkpoint", "problem", "stage", "resume", "end"
]

Record = dict[str, Any]

#: What makes no curve; nobody would look at those of eighty classes.
_NOT_DRAWN = ("kind", "time", "step", "epoch", "per_class", "num_images")


class Curves(Protocol):
    """Takes numbers over steps, to draw them."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point at `step` to each named curve."""
        ...

    def close(self) -> None:
        """Write what is held back."""
        ...


class ProgressLog:
    """Appends to `path`; what a killed run left of its last line is removed first.

    `curves` receives the numbers of `step`, `epoch` and `evaluation` records.
    """

    def __init__(
        self,
        path: Path,
        *,
        curves: Curves | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _remove_torn_line(path)
        # Every record is one write to the end of the file, so that a reader sees whole lines.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        self._curves = curves
        self._clock = clock

    def record(self, kind: Kind, **values: Any) -> Record:
        """Append a record and return it. `values` are numbers, texts and containers of them.

        Numbers that are not finite become null. Raises OSError on a full disk.
        """
        record: Record = {"kind": kind, "time": round(self._clock(), 3), **_finite(values)}
        self._append(json.dumps(record, allow_nan=False).encode() + b"\n")
        if self._curves is not None and kind in ("step", "epoch", "evaluation"):
            self._curves.add(record.get("step", 0), dict(_numbers(record, prefix=kind)))
        return record

    def close(self) -> None:
        """Make sure that the records are on the disk."""
        os.fsync(self._file.fileno())
        self._file.close()
        if self._curves is not None:
            self._curves.close()

    def _append(self, line: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) != len(line):
            # Half a line would spoil the next one, if there is room again by then.
            self._file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)


class StepMeans:
    """Means over the steps since the last record, so that a curve shows each step.

    Losses may be tensors: they are added up where they are, and fetched once per record, for
    fetching from a GPU waits until it has caught up.
    """

    def __init__(self, total_steps: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total_steps = total_steps
        self._clock = clock
        self._begin()

    def add(self, losses: Mapping[str, SupportsFloat], *, num_images: int) -> None:
        """Count one finished step. Losses without a graph; `num_images` of all ranks together."""
        for name, value in losses.items():
            # A sum is a new tensor: the step may write its loss to the same place each time.
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._num_images += num_images
        self._num_steps += 1

    def take(self, step: int) -> dict[str, float]:
        """The mean losses by name, `images_per_second`, `eta_s` after `step` steps; starts anew.

        Nothing where no step was counted.
        """
        if not self._num_steps:
            return {}
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        elapsed_s = max(self._clock() - self._since, 1e-9)
        speed = {
            "images_per_second": self._num_images / elapsed_s,
            "eta_s": (self._total_steps - step) * elapsed_s / self._num_steps,
        }
        self._begin()
        return {**means, **speed}

    def _begin(self) -> None:
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._num_images = 0
        self._num_steps = 0
        self._since = self._clock()


def memory_mib() -> dict[str, float]:
    """Resident memory of this process, and the peak of the GPU's where torch uses one."""
    # Here, for readers of records need neither.
    import psutil
    import torch

    memory = {"memory_mib": psutil.Process().memory_info().rss / 2**20}
    if torch.cuda.is_available():
        memory["gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return memory


def read_records(path: Path) -> Iterator[Record]:
    """All records, oldest first; a last line that is being written is left out."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def current_records(records: Iterable[Record]) -> list[Record]:
    """The records without those of what was done again after a `resume`.

    The result of an evaluation may come long after its step, and once more after a resume.
    """
    current: list[Record] = []
    evaluated: set[int] = set()
    for record in records:
        epoch = record.get("epoch")
        if record["kind"] == "resume":
            current = [old for old in current if old.get("step", 0) <= record["step"]]
        elif record["kind"] == "evaluation" and epoch is not None:
            if epoch in evaluated:
                current = [old for old in current if not _is_evaluation(old, epoch)]
            evaluated.add(epoch)
        current.append(record)
    return current


def _is_evaluation(record: Record, epoch: int) -> bool:
    return record["kind"] == "evaluation" and record.get("epoch") == epoch


def _remove_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "r+b") as file:
        # The end of the last whole line; lines are far shorter than this.
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - (1 << 20))
        file.seek(start)
        end = start + file.read(size - start).rfind(b"\n") + 1
        if end < size:
            file.truncate(end)


def _finite(value: Any) -> Any:
    """`value` as JSON can hold it."""
    match value:
        case bool() | int() | str() | None:
            return value
        case dict():
            return {str(name): _finite(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _ if hasattr(value, "__float__"):
            number = float(value)
            return number if math.isfinite(number) else None
    return str(value)


def _numbers(record: Record, *, prefix: str) -> Iterator[tuple[str, float]]:
    """The curves of a record: "step/loss_box", "evaluation/AP"."""
    for name, value in record.items():
        if name in _NOT_DRAWN or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value)
        elif isinstance(value, dict):
            yield from _numbers(value, prefix=f"{prefix}/{name}")
