"""What a worker process of the loader does with itself before it renders.

Workers are forked: they start in milliseconds, share what is imported already, and use numpy,
OpenCV and torch on one thread each, which is safe after a fork even where torch has threads.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from training.interruption import STOP_SIGNALS, die_with_parent


def prepare_worker(parent: int) -> None:
    """In the worker: one thread, deaf to requests to stop, and gone when its parent is.

    Those requests reach whole process groups. The training process saves and stops its workers
    itself; without them it could not finish the step that it is in. Called with the signals held
    back, as `signals_in_order` does in the parent.
    """
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    cv2.setNumThreads(0)
    cv2.ocl.setUseOpenCL(False)
    die_with_parent(parent)


@contextmanager
def signals_in_order() -> Iterator[None]:
    """While torch starts workers.

    What is sent to the group reaches them when they already ignore it. And torch's handler for the
    end of a child is taken out again: it raises wherever the program happens to be, in the middle
    of a save as well. A lost worker is noticed by whoever waits for its batch, within seconds.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
