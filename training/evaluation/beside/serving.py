"""The evaluating process's side of the conversation: snapshots come in, events go out.

A line of JSON each way: {"snapshot": folder, "epochs": n} asks; {"done": n, "total": m},
{"finished": true} and {"failed": reason} answer. After a failure the process ends: whatever it was
(memory that ran out, a device that is lost), the next evaluation begins in a fresh one.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from training.data.sampling.workers import prepare_worker
from training.evaluation.beside.snapshots import Outcome, Snapshot

#: Told after each batch: images done and in all; returns whether to go on.
Watch = Callable[[int, int], bool]

#: Evaluates the weights at a path without its suffix.
Evaluate = Callable[[Path, Watch], Outcome]

#: How much this process lets others go first; it still gets all the time that nobody else wants.
_NICENESS = 10

#: So often at most it says how far it is.
_TELL_EVERY_S = 0.5


def step_aside(parent: int) -> IO[str]:
    """Become a process beside `parent`, and get a stream to tell it things.

    It ends with its parent, is deaf to requests to stop, and lets others compute first. To be
    called before anything slow is imported. What is printed goes to stderr from here on.
    """
    prepare_worker(parent)
    os.nice(_NICENESS)
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return told


def serve(requests: Iterable[str], told: IO[str], evaluate: Evaluate) -> int:
    """Evaluate what is asked for until nobody asks any more; returns the exit code."""

    def tell(**values: Any) -> None:
        told.write(json.dumps(values) + "\n")

    for line in requests:
        request = json.loads(line)
        snapshot = Snapshot(Path(request["snapshot"]), request["epochs"])
        try:
            snapshot.keep(evaluate(snapshot.weights, _Telling(tell)))
        except Exception as error:
            traceback.print_exc()
            tell(failed=reason_of(error))
            return 1
        tell(finished=True)
    return 0


def reason_of(error: Exception) -> str:
    """What went wrong, in a line: the message of what was foreseen, with its kind for the rest."""
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, ValueError | OSError) and first:
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


class _Telling:
    """A `Watch` that tells now and then, and always goes on."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._next = 0.0

    def __call__(self, done: int, total: int) -> bool:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_EVERY_S
            self._tell(done=done, total=total)
        return True
