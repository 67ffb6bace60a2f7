"""Signals that end the server: the first in order, the second at once."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

_POLL_S = 0.05


class StoppedEarly(Exception):
    """A signal came before the work was done."""


class StopSignals:
    """SIGTERM and SIGINT from `install` on."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None

    @property
    def name(self) -> str:
        """For the log: what ended the server."""
        if self.requested is None:
            return "end of service"
        return "SIGINT (Ctrl-C)" if self.is_interrupt else self.requested.name

    @property
    def is_interrupt(self) -> bool:
        """Whether somebody sits at the terminal and waits."""
        return self.requested == signal.SIGINT

    def install(self) -> None:
        """Handle the signals. Call on the main thread, before anything that takes long."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def end_within(self, seconds: float) -> None:
        """End the process by force if it still lives then: a thread that hangs would keep it."""
        timer = threading.Timer(seconds, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def unless_stopped(self, work: Callable[[], Result]) -> Result:
        """Do work that may take long, such as loading models, on a thread of its own.

        Raises StoppedEarly as soon as a signal comes, leaving the thread to itself: native code
        cannot be interrupted.
        """
        results: list[Result] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="loading", daemon=True)
        thread.start()
        while thread.is_alive():
            # Not an event that the handler sets: it may interrupt the very wait for it.
            thread.join(_POLL_S)
            if self.requested is not None:
                raise StoppedEarly
        if failures:
            raise failures[0]
        return results[0]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested is not None:
            # No logging: another thread may hang in it.
            os._exit(128 + number)
        self.requested = signal.Signals(number)
