"""Threads that compute without the interpreter, and leave the processor to those that need it.

Everything written in Python shares one lock. A thread that holds it and has to wait for a core, on
which a convolution runs, keeps all the others waiting too: the event loop, decoding, answering. So
those that compute yield to them; it takes nothing from a machine that has nothing else to do.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


def yielding(niceness: int, make: Callable[[], Made]) -> Made:
    """What `make` gives; threads that it starts are so much nicer (0 to 19) than this one.

    On Linux a thread inherits niceness from the one that starts it; elsewhere nothing is changed.
    """
    if niceness == 0 or sys.platform != "linux":
        return make()
    made: list[Made] = []
    failed: list[BaseException] = []

    def run() -> None:
        _be_nicer(niceness)
        try:
            made.append(make())
        except BaseException as error:
            failed.append(error)

    making = threading.Thread(target=run, name="yielding", daemon=True)
    making.start()
    making.join()
    if failed:
        raise failed[0]
    return made[0]


def _be_nicer(by: int) -> None:
    """This thread alone. It ends soon: only a privileged one could go back."""
    here = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, here, os.getpriority(os.PRIO_PROCESS, here) + by)
    except OSError as error:
        # A courtesy; some sandboxes forbid it.
        logger.warning("threads for inference do not yield to others: %s", error.strerror)
