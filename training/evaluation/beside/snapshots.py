"""Weights that are to be evaluated, and what came of it, as files of the run.

evaluations/epoch-0003/  weights.*, as they are exported; result.json, once they are evaluated

A snapshot is written under a temporary name and gets its own when all of it is on the disk.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from model.durable import move_into_place, part_of
from training.evaluation.average_precision import Metrics

_NAME = re.compile(r"epoch-(\d{4,})")


@dataclass(frozen=True)
class Outcome:
    """What an evaluation gave; `unreadable` has a line for each image that was left out of it."""

    metrics: Metrics
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """The averaged weights after `epochs` epochs, in a folder of their own."""

    folder: Path
    epochs: int

    @property
    def weights(self) -> Path:
        """Where the weights lie, without a suffix."""
        return self.folder / "weights"

    @property
    def _result(self) -> Path:
        return self.folder / "result.json"

    def outcome(self) -> Outcome | None:
        """What the evaluation of these weights gave, once that is known."""
        try:
            content = json.loads(self._result.read_bytes())
            return Outcome(Metrics(**content["metrics"]), tuple(content["unreadable"]))
        except (OSError, ValueError, TypeError, KeyError):
            # Evaluated again then.
            return None

    def keep(self, outcome: Outcome) -> None:
        """Leave it beside the weights; a reader sees all of it or nothing."""
        part = part_of(self._result)
        part.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        move_into_place(part, self._result)


class Snapshots:
    """The snapshots of one run, in `folder`, which is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, epochs: int, save: Callable[[Path], None]) -> Snapshot:
        """A new snapshot after so many epochs; `save` writes weights as a path with a suffix.

        What there was after as many epochs is replaced. Raises OSError on a full disk.
        """
        snapshot = Snapshot(self._folder / f"epoch-{epochs:04d}", epochs)
        part = part_of(snapshot.folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save(part / snapshot.weights.name)
        self.discard(snapshot)
        move_into_place(part, snapshot.folder)
        return snapshot

    def all(self) -> list[Snapshot]:
        """Those that are there, in the order of epochs."""
        if not self._folder.is_dir():
            return []
        matches = [(path, _NAME.fullmatch(path.name)) for path in self._folder.iterdir()]
        found = [Snapshot(path, int(match[1])) for path, match in matches if match]
        return sorted(found, key=lambda snapshot: snapshot.epochs)

    def tidy(self) -> None:
        """Remove what a kill left half written or half removed."""
        for path in self._folder.glob("epoch-*.*"):
            shutil.rmtree(path, ignore_errors=True)

    def discard(self, snapshot: Snapshot) -> None:
        """Remove a snapshot, if it is there."""
        gone = snapshot.folder.with_name(f"{snapshot.folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        if snapshot.folder.exists():
            # Under another name first, so that half of it is never taken for whole.
            snapshot.folder.replace(gone)
            shutil.rmtree(gone, ignore_errors=True)
