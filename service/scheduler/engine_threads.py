"""The threads that call a runtime. One that never comes back keeps nobody from ending."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_Job = tuple[Callable[[], object], "asyncio.Future[object]", asyncio.AbstractEventLoop]


class EngineThreads:
    """Runs calls on daemon threads, which the interpreter does not wait for when it ends.

    An executor of the standard library is waited for, so that a call that hangs would keep the
    server from ending.
    """

    def __init__(self, num_threads: int) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._num_threads = num_threads
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True).start()

    def run(self, call: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Begin a call; its result or exception comes as a future of the running loop."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._jobs.put((call, done, loop))  # pyright: ignore[reportArgumentType] - any result
        return done

    def close(self) -> None:
        """End the threads, each after the call that it is in."""
        for _ in range(self._num_threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, done, loop = job
            try:
                result = call()
            except Exception as error:
                _tell(loop, done, error=error)
            except BaseException as error:
                # Nothing that a runtime raises may end the loop that waits for it.
                _tell(loop, done, error=RuntimeError(repr(error)))
            else:
                _tell(loop, done, result=result)


def _tell(
    loop: asyncio.AbstractEventLoop,
    done: "asyncio.Future[object]",
    *,
    result: object = None,
    error: Exception | None = None,
) -> None:
    def settle() -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    # The loop may have ended while the call ran: then nobody waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
