"""Stopping at any moment without losing work: signals become a request that the trainer reads.

Also what ties processes together: ranks die with their launcher, data workers with their rank.
Imports no torch, so that a rank can call `die_with_parent` before anything slow.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

#: Stopped on request, everything saved: run again with --resume (EX_TEMPFAIL of sysexits.h).
EXIT_INTERRUPTED = 75

#: Stopped at once, as a shell says it of a command that Ctrl-C ended.
EXIT_AT_ONCE = 130

#: What asks for a stop. Batch systems announce the end of an allocation with SIGUSR1.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

#: A second Ctrl-C counts after so long: one key press can arrive twice, through the process group
#: and through a parent that passes it on.
_SECOND_INTERRUPT_S = 1.0

_PR_SET_PDEATHSIG = 1

#: How a launcher tells its ranks which process they must not outlive.
LAUNCHER_PID = "RTMDET_LAUNCHER_PID"


class StopRequest:
    """While entered, stop signals set `requested` and do nothing else, in the main thread alone.

    The trainer looks at it between steps. A second SIGINT, a moment later, ends the process at
    once with EXIT_AT_ONCE. Signals that were ignored before (nohup) stay ignored.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self._clock = clock
        self._leave = leave
        self._signal: signal.Signals | None = None
        self._interrupted_at: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether anyone has asked."""
        return self._signal is not None

    @property
    def reason(self) -> str | None:
        """The name of the first signal: "SIGTERM"."""
        return self._signal.name if self._signal else None

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._is_second_interrupt():
            # No print: this may have come in the middle of one.
            os.write(2, b"\nstopped at once; the last checkpoint is kept: go on with --resume\n")
            self._leave(EXIT_AT_ONCE)
        self._signal = self._signal or signal.Signals(number)

    def _is_second_interrupt(self) -> bool:
        now = self._clock()
        if self._interrupted_at is None:
            self._interrupted_at = now
        return now - self._interrupted_at >= _SECOND_INTERRUPT_S


def die_with_parent(parent: int | None = None) -> None:
    """Have the system kill this process when its parent ends, however that ends. Linux only.

    `parent`: the process that started this one; where it is gone already, this process ends. By
    default what a launcher has left in the environment, else whoever is the parent now. It is the
    thread that started this process whose end counts: start from one that lasts.
    """
    if not sys.platform.startswith("linux"):
        return
    if parent is None:
        parent = int(os.environ.get(LAUNCHER_PID) or os.getppid())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    # It may have ended before the system knew whom to tell.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
