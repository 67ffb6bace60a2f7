"""The loop between requests and a runtime: gather what waits, run it, hand each its own row.

An idle engine never waits for more requests; a busy one lets them gather.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.detection import Priority
from service.errors import DeadlineExceeded, InferenceFailed, Overloaded, ShuttingDown
from service.runtime.base import Outputs, Runtime
from service.scheduler.queue import QueuedRequest, RequestQueue

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceRow:
    """What one request gets of its batch: its row of every output, and how it went."""

    outputs: Mapping[str, NDArray[np.generic]]
    batch_size: int
    queue_s: float
    infer_s: float


@dataclass(frozen=True)
class _Waiting:
    """A picture and who waits for its answer."""

    image: NDArray[np.uint8]
    reply: "asyncio.Future[InferenceRow]"


class Batcher:
    """Owns one runtime. Start and stop it on the event loop that its callers run on."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._queue: RequestQueue[_Waiting] = RequestQueue(max_waiting)
        self._wake = asyncio.Event()
        self._engine = ThreadPoolExecutor(runtime.concurrency, thread_name_prefix="engine")
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Begin to serve: one loop for each call that the runtime takes at once."""
        self._loops = [
            asyncio.create_task(self._serve(), name=f"batcher-{index}")
            for index in range(self._runtime.concurrency)
        ]

    async def stop(self) -> None:
        """Finish what is queued, refuse what comes, release the runtime."""
        self._stopping = True
        self._wake.set()
        await asyncio.gather(*self._loops)
        self._engine.shutdown()
        self._runtime.close()

    async def submit(
        self, image: NDArray[np.uint8], *, priority: Priority, deadline_s: float
    ) -> InferenceRow:
        """Infer one picture, uint8 [h, w, 3]; `deadline_s` is a reading of the clock.

        Raises Overloaded, DeadlineExceeded, ShuttingDown, InferenceFailed. A caller that is
        cancelled leaves nothing behind.
        """
        if self._stopping:
            raise ShuttingDown("the server is shutting down; send the request to another")
        if self._queue.is_full:
            raise Overloaded(
                f"{len(self._queue)} requests are waiting for this model; try again later",
                retry_after_s=1.0,
            )
        reply: asyncio.Future[InferenceRow] = asyncio.get_running_loop().create_future()
        request = QueuedRequest(_Waiting(image, reply), priority, self._clock(), deadline_s)
        self._queue.push(request)
        self._wake.set()
        try:
            async with asyncio.timeout(deadline_s - self._clock()):
                return await reply
        except TimeoutError as error:
            raise too_late() from error
        finally:
            request.cancelled = True

    async def _serve(self) -> None:
        while batch := await self._next_batch():
            await self._run(batch)

    async def _next_batch(self) -> list[QueuedRequest[_Waiting]]:
        """Wait for requests; an empty batch means that all is done."""
        while True:
            while not self._queue:
                if self._stopping:
                    return []
                self._wake.clear()
                await self._wake.wait()
            batch, expired = self._queue.next_batch(self._runtime.max_batch_size, self._clock())
            for request in expired:
                _fail(request.payload.reply, too_late())
            if batch:
                return batch

    async def _run(self, batch: list[QueuedRequest[_Waiting]]) -> None:
        started_s = self._clock()
        images = _stacked([request.payload.image for request in batch])
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(
                self._engine, self._runtime.infer, images
            )
        except Exception as error:
            # Whatever an engine raises must not end the loop; the cause goes to the log.
            logger.exception("inference of %d pictures failed", len(batch))
            failure = InferenceFailed("the runtime failed on this batch; the server's log says why")
            failure.__cause__ = error
            for request in batch:
                _fail(request.payload.reply, failure)
            return
        infer_s = self._clock() - started_s
        for row, request in enumerate(batch):
            if not request.payload.reply.done():
                request.payload.reply.set_result(
                    InferenceRow(
                        outputs=_row_of(outputs, row),
                        batch_size=len(batch),
                        queue_s=started_s - request.queued_at_s,
                        infer_s=infer_s,
                    )
                )


def _stacked(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One batch; a single picture is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def _row_of(outputs: Outputs, row: int) -> dict[str, NDArray[np.generic]]:
    return {name: values[row] for name, values in outputs.items()}


def too_late() -> DeadlineExceeded:
    """The answer to a request whose time is over."""
    return DeadlineExceeded(
        "the request's time was over before its turn came; allow more with timeout_ms, "
        "or send fewer requests at once"
    )


def _fail(reply: "asyncio.Future[InferenceRow]", error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
