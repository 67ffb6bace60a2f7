"""Threads that run calls for an event loop: those of a runtime, and those that decode and answer.

One that never comes back keeps nobody from ending: an executor of the standard library is waited
for when the interpreter ends. Calls run in their order, and one that nobody waits for any more is
dropped with all that it holds, also before its turn.
"""

import asyncio
import contextlib
import heapq
import itertools
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

#: What goes first is smaller; equals go in the order in which they came.
Order = tuple[int, float]

_LAST: Order = (2**31, 0.0)


class _Job:
    """A call and who waits for it; neither, for the end of a thread."""

    __slots__ = ("call", "done")

    def __init__(
        self, call: Callable[[], object] | None, done: "asyncio.Future[object] | None"
    ) -> None:
        self.call = call
        self.done = done

    def drop(self, _: object) -> None:
        """Nobody waits for it, or it is done: what it holds may go."""
        self.call = None


class CallThreads:
    """Runs calls on `num_threads` daemon threads; used from one event loop."""

    def __init__(self, num_threads: int, name: str) -> None:
        # Not `queue.PriorityQueue`: its condition is written in Python, and a thread that is woken
        # by it keeps the event loop from going on. Here threads wait outside of the interpreter.
        self._jobs: list[tuple[Order, int, _Job]] = []
        self._lock = threading.Lock()
        self._there: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._num_threads = num_threads
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def run(self, call: Callable[[], Result], order: Order = (0, 0.0)) -> "asyncio.Future[Result]":
        """Have a call run; its result or exception comes as a future of the running loop.

        A future that is cancelled drops a call that has not begun.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = _Job(call, done)  # pyright: ignore[reportArgumentType]
        done.add_done_callback(job.drop)
        self._put(order, job)
        return done

    def close(self) -> None:
        """End the threads, each after the call that it is in and those that wait."""
        for _ in range(self._num_threads):
            self._put(_LAST, _Job(None, None))

    def _put(self, order: Order, job: _Job) -> None:
        with self._lock:
            heapq.heappush(self._jobs, (order, next(self._numbers), job))
        self._there.put(None)

    def _next(self) -> _Job:
        self._there.get()
        with self._lock:
            return heapq.heappop(self._jobs)[2]

    def _work(self) -> None:
        while _run(self._next()):
            pass


def _run(job: _Job) -> bool:
    """Run a call and say how it went; False for the end. What it held does not outlive it."""
    call, done = job.call, job.done
    if done is None:
        return False
    if call is None:
        return True
    try:
        result = call()
    except Exception as error:
        # A future takes no StopIteration.
        _tell(done, RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)
    except BaseException as error:
        # Nothing that a call raises may end the loop that waits for it.
        _tell(done, RuntimeError(repr(error)))
    else:
        _tell(done, None, result)
    return True


def _tell(done: "asyncio.Future[object]", error: Exception | None, result: object = None) -> None:
    # The loop may have ended while the call ran: then nobody waits.
    with contextlib.suppress(RuntimeError):
        done.get_loop().call_soon_threadsafe(_settle, done, error, result)


def _settle(done: "asyncio.Future[object]", error: Exception | None, result: object) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
