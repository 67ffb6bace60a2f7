"""One process that evaluates beside this one; started at the first snapshot, kept for the next."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import training
from training.data.sampling.workers import signals_in_order
from training.evaluation.beside.base import Event, Failed, Finished, Underway
from training.evaluation.beside.snapshots import Snapshot

#: More than it ever says between two looks.
_CHUNK_BYTES = 1 << 16


class SideProcess:
    """Fulfils `SideEvaluator` with a process that runs `serve`; its end is seen, however it ends.

    `command` is called with this process's id as its last argument. What it prints goes to `log`.
    To be used from the main thread, with whose end it ends.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._log = log
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._is_busy = False
        self._not_started: Failed | None = None

    def begin(self, snapshot: Snapshot) -> None:
        """Have a snapshot evaluated, by a new process where the last one has ended."""
        assert not self._is_busy
        if self._process is not None and self._process.poll() is not None:
            self._end()
        self._is_busy = True
        try:
            self._process = self._process or self._started()
        except OSError as error:
            self._not_started = Failed(f"no process for it could be started: {error}", died=False)
            return
        request = {"snapshot": str(snapshot.folder.absolute()), "epochs": snapshot.epochs}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then `poll` tells how it ended
            self._process.stdin.write(json.dumps(request).encode() + b"\n")

    def poll(self) -> Event | None:
        """The latest that it has said, or how it ended."""
        process = self._process
        if process is None:
            failed, self._not_started = self._not_started, None
            self._is_busy = False
            return failed
        assert process.stdout is not None
        try:
            chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return None
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        event = _event(json.loads(lines[-1])) if lines else None
        if isinstance(event, Failed):
            self._end()
        elif not chunk:
            event = self._how_it_ended(process)
        if isinstance(event, Finished | Failed):
            was_busy, self._is_busy = self._is_busy, False
            return event if was_busy else None
        return event

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it says something."""
        stream = self._process.stdout if self._process else None
        select.select([stream] if stream else [], [], [], seconds)

    def abandon(self) -> None:
        """End the process: an evaluation cannot be taken back."""
        self._is_busy = False
        self._not_started = None
        self._end()

    close = abandon

    def _started(self) -> "subprocess.Popen[bytes]":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._unread = b""
        with open(self._log, "ab") as log, signals_in_order():
            process = subprocess.Popen(
                [*self._command, str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0,
                env={**os.environ, **self._environment},
            )  # fmt: skip
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _how_it_ended(self, process: "subprocess.Popen[bytes]") -> Failed | None:
        """None while the system is still at it."""
        code = process.poll()
        if code is None:
            return None
        self._end()
        how = (
            f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
        return Failed(f"the process that evaluates {how}; what it printed: {self._log}", died=True)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with process:  # waits, and closes its streams
            pass


def own_module(name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs a module of this very code, and what its environment needs."""
    here = str(Path(training.__file__).resolve().parent.parent)
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Not from the folder that the user is in: something there may be named like our modules.
    return [sys.executable, "-P", "-m", name, *arguments], {"PYTHONPATH": os.pathsep.join(paths)}


def _event(said: Mapping[str, Any]) -> Event:
    if "failed" in said:
        return Failed(said["failed"], died=False)
    if "finished" in said:
        return Finished()
    return Underway(said["done"], said["total"])
