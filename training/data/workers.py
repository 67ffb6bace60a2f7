"""What a worker process of the loader does with itself before it renders.

Workers are forked: they start in milliseconds, share what is imported already, and use numpy,
OpenCV and torch on one thread each, which is safe after a fork even where torch has threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

_PR_SET_PDEATHSIG = 1

#: Sent to whole process groups when a run is to end. The training process saves and stops its
#: workers itself; without them it could not finish the step that it is in.
_IGNORED = (signal.SIGTERM, signal.SIGINT)


def prepare_worker(parent: int) -> None:
    """In the worker: one thread, deaf to requests to stop, and gone when its parent is.

    Called with the signals held back, as `signals_held_back` does in the parent.
    """
    for each in _IGNORED:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    cv2.setNumThreads(0)
    cv2.ocl.setUseOpenCL(False)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent died before it could be asked for a sign.
            os._exit(1)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """While workers start: what is sent to the group reaches them when they already ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
