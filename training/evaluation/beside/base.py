"""What the first rank sees of an evaluation that runs beside it; a sibling is one way to run it."""

from dataclasses import dataclass
from typing import Protocol

from training.evaluation.beside.snapshots import Snapshot


@dataclass(frozen=True)
class Underway:
    """So many of so many images are done."""

    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """The metrics lie beside the snapshot."""


@dataclass(frozen=True)
class Failed:
    """There will be no metrics, and why. `died`: without a word of its own, as when killed."""

    reason: str
    died: bool


Event = Underway | Finished | Failed


class SideEvaluator(Protocol):
    """Evaluates one snapshot at a time while its owner does something else."""

    def begin(self, snapshot: Snapshot) -> None:
        """Have a snapshot evaluated. Only while none is; does not wait."""
        ...

    def poll(self) -> Event | None:
        """What has happened since the last call, the latest alone; does not wait.

        `Finished` and `Failed` come once, and end what `begin` began. It costs next to nothing.
        """
        ...

    def wait(self, seconds: float) -> None:
        """Wait so long, or until there may be an event."""
        ...

    def abandon(self) -> None:
        """Stop what `begin` began, if anything; no event of it comes any more."""
        ...
