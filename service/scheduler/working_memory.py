"""Memory for decoded pictures and masks: a bounded part of it is in use at any moment.

A file of a few kilobytes can hold a picture of hundreds of megabytes, and a hundred masks on a
large picture take gigabytes; how many pictures wait says nothing of that.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from service.scheduler.refusals import too_late

#: Takes bytes; see `WorkingMemory.share`.
TakeBytes = Callable[[int], None]


class WorkingMemory:
    """Gives out `max_bytes` to jobs on threads, to each in the order in which they came."""

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self._clock = clock
        self._free = max_bytes
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def num_free(self) -> int:
        """Bytes that nobody has."""
        return self._free

    @contextmanager
    def share(self, deadline_s: float) -> Generator[TakeBytes]:
        """A function that takes bytes, once; they are given back when the block ends.

        It blocks until there are so many, and raises DeadlineExceeded at the deadline. Whoever
        asks for more than there are in all gets all: so it runs, alone. A second time would be for
        more while holding some, by which two could wait for each other for ever.
        """
        taken = 0

        def take(num_bytes: int) -> None:
            nonlocal taken
            assert taken == 0, "memory is taken once"
            taken = min(num_bytes, self.max_bytes)
            try:
                self._take(taken, deadline_s)
            except BaseException:
                taken = 0
                raise

        try:
            yield take
        finally:
            self._give_back(taken)

    def _take(self, num_bytes: int, deadline_s: float) -> None:
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or num_bytes > self._free:
                    left_s = deadline_s - self._clock()
                    if left_s <= 0:
                        raise too_late()
                    self._changed.wait(left_s)
                self._free -= num_bytes
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _give_back(self, num_bytes: int) -> None:
        if num_bytes:
            with self._changed:
                self._free += num_bytes
                self._changed.notify_all()
