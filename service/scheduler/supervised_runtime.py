"""A runtime that is watched: one that hangs is left to itself, and another takes its place."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.base import Outputs, Runtime
from service.scheduler.call_threads import CallThreads
from service.scheduler.requests import stacked

logger = logging.getLogger(__name__)

#: How long to wait before a runtime is opened again that could not be opened, at first and at most.
REOPEN_AFTER_S = 1.0
_REOPEN_AFTER_AT_MOST_S = 60.0


class RuntimeHung(Exception):
    """A call gave no answer in time, and will not be waited for any longer."""


@dataclass(frozen=True)
class Recovery:
    """What becomes of a runtime that hangs.

    A call that takes longer than `hang_s` will not come back; `reopen` gives another runtime, and
    may raise. Without it the model stays out of service.
    """

    hang_s: float = 60.0
    reopen: Callable[[], Runtime] | None = None


@dataclass(frozen=True, eq=False)
class _Opened:
    """A runtime and the threads that call it."""

    runtime: Runtime
    threads: CallThreads


class SupervisedRuntime:
    """Calls a runtime on threads of its own; on one event loop.

    `problem` says why it cannot be asked now, and is None while it can. `on_usable` is called when
    it can be asked again, `on_lost` when it never can.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str,
        recovery: Recovery,
        on_usable: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._opened: _Opened | None = _open(runtime)
        #: Of the runtime that is open, or was: another one may take less at once.
        self.max_batch_size = runtime.max_batch_size
        self._name = name
        self.recovery = recovery
        self._on_usable = on_usable
        self._on_lost = on_lost
        self._replacing: asyncio.Task[None] | None = None
        self._stopping = False
        self.problem: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a call can begin now."""
        return self._opened is not None

    async def infer(self, images: Sequence[NDArray[np.uint8]]) -> Outputs:
        """One call of the runtime, for pictures of one size.

        Raises RuntimeHung, and whatever the runtime raises.
        """
        opened = self._opened
        if opened is None:
            # Its last call hung between the moment that this one was decided and now.
            raise RuntimeHung(self.problem)
        # The copy into one batch is made there too: it takes milliseconds.
        call = opened.threads.run(lambda: opened.runtime.infer(stacked(images)))
        patience = asyncio.timeout(self.recovery.hang_s)
        try:
            async with patience:
                return await call
        except TimeoutError:
            # It may be the runtime's own.
            if not patience.expired():
                raise
        if call.done() and not call.cancelled():
            # It came in time: the event loop was late.
            return call.result()
        self._hung(opened)
        raise RuntimeHung(
            f"the runtime gave no answer within {self.recovery.hang_s:g} s and is replaced; "
            "try again"
        )

    def stop(self) -> bool:
        """Replace nothing any more; whether what waits will never be run."""
        self._stopping = True
        if self._replacing is not None:
            self._replacing.cancel()
        return self._opened is None

    def close(self) -> None:
        """Release the runtime; no call may be running that has not hung."""
        if self._opened is not None:
            self._opened.threads.close()
            self._opened.runtime.close()

    def _hung(self, opened: _Opened) -> None:
        """Replace the runtime, once for all calls that it has not ended."""
        logger.error(
            "model %s: no answer from the runtime for %g s", self._name, self.recovery.hang_s
        )
        if opened is not self._opened:
            return
        self._opened = None
        self.problem = "the runtime of this model hung and is being replaced; try again"
        opened.threads.close()
        if self._stopping:
            self._on_lost(self.problem)
        else:
            self._replacing = asyncio.create_task(self._replace(), name=f"reopen-{self._name}")

    async def _replace(self) -> None:
        """Open the runtime anew, as often as it takes. What waits goes on waiting meanwhile."""
        if self.recovery.reopen is None:
            self.problem = "the runtime of this model hung; restart the server"
            self._on_lost(self.problem)
            return
        after_s = REOPEN_AFTER_S
        while self._opened is None:
            opening = CallThreads(1, "opening")
            try:
                self._opened = _open(await opening.run(self.recovery.reopen))
                self.max_batch_size = self._opened.runtime.max_batch_size
            except Exception as error:
                self.problem = f"the runtime of this model hung and cannot be replaced: {error}"
                logger.exception("model %s: the runtime cannot be replaced", self._name)
                await asyncio.sleep(after_s)
                after_s = min(2 * after_s, _REOPEN_AFTER_AT_MOST_S)
            finally:
                opening.close()
        self._replacing = self.problem = None
        logger.warning("model %s: the runtime is replaced", self._name)
        self._on_usable()


def _open(runtime: Runtime) -> _Opened:
    return _Opened(runtime, CallThreads(runtime.concurrency, "engine"))
