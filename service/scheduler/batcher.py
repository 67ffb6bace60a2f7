"""The loop between requests and a runtime: gather what waits, run it, hand each its own row.

An idle engine never waits for more requests; a busy one lets them gather. What runs next and what
is refused is the queue's policy; what batches take is learnt from those that ran.
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
from service.scheduler.latency import LatencyModel
from service.scheduler.queue import Engine, QueuedRequest, RequestQueue

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


_Requests = list[QueuedRequest[_Waiting]]


class Batcher:
    """Owns one runtime. Start and stop it on the event loop that its callers run on."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        max_waiting: int,
        latency: LatencyModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`latency` is what is known of the runtime before it serves."""
        self._runtime = runtime
        self._clock = clock
        self._queue: RequestQueue[_Waiting] = RequestQueue(max_waiting)
        self._latency = latency or LatencyModel()
        #: When each of the engine's places is expected to be free.
        self._free_at_s = [clock()] * runtime.concurrency
        self._wake = asyncio.Event()
        self._engine = ThreadPoolExecutor(runtime.concurrency, thread_name_prefix="engine")
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Begin to serve: one loop for each call that the runtime takes at once."""
        self._loops = [
            asyncio.create_task(self._serve(place), name=f"batcher-{place}")
            for place in range(self._runtime.concurrency)
        ]

    async def stop(self) -> None:
        """Finish what is queued, refuse what comes, release the runtime."""
        self._stopping = True
        self._wake.set()
        await asyncio.gather(*self._loops)
        self._engine.shutdown()
        self._runtime.close()

    async def submit(
        self,
        image: NDArray[np.uint8],
        *,
        priority: Priority,
        deadline_s: float,
        client: str = "",
    ) -> InferenceRow:
        """Infer one picture, uint8 [h, w, 3]; `deadline_s` is a reading of the clock.

        `client` is who asks, for a fair share of the engine. Raises Overloaded, DeadlineExceeded,
        ShuttingDown, InferenceFailed. A caller that is cancelled leaves nothing behind.
        """
        reply: asyncio.Future[InferenceRow] = asyncio.get_running_loop().create_future()
        request = QueuedRequest(
            _Waiting(image, reply), priority, self._clock(), deadline_s, client=client
        )
        self._admit(request)
        self._wake.set()
        try:
            async with asyncio.timeout(deadline_s - self._clock()):
                return await reply
        except TimeoutError as error:
            raise too_late() from error
        finally:
            self._queue.discard(request)

    def _admit(self, request: QueuedRequest[_Waiting]) -> None:
        """Queue a request, or raise what tells its caller at once that this would be in vain."""
        if self._stopping:
            raise ShuttingDown("the server is shutting down; send the request to another")
        now_s = request.queued_at_s
        left_s = request.deadline_s - now_s
        if left_s <= 0:
            raise too_late()
        if left_s < self._latency.mean_s(1):
            raise DeadlineExceeded(
                f"inference alone takes {round(self._latency.mean_s(1) * 1000)} ms, and "
                f"{round(left_s * 1000)} ms were left; allow more with timeout_ms"
            )
        if self._queue.is_full:
            raise Overloaded(
                f"{len(self._queue)} requests are waiting for this model; try again later",
                retry_after_s=max(self._latency.mean_s(1), 1.0),
            )
        late_by_s = self._queue.late_by_s(request, now_s, self._engine_state())
        if late_by_s > 0:
            would_take_ms = round((left_s + late_by_s) * 1000)
            raise Overloaded(
                f"{len(self._queue)} requests are waiting for this model: inference would be done "
                f"after {would_take_ms} ms, and {round(left_s * 1000)} ms were left; try again "
                "later, or allow more with timeout_ms",
                retry_after_s=late_by_s,
            )
        self._queue.push(request)

    def _engine_state(self) -> Engine:
        return Engine(self._runtime.max_batch_size, self._latency, self._free_at_s)

    async def _serve(self, place: int) -> None:
        while batch := await self._next_batch():
            expected_s = self._latency.mean_s(len(batch))
            self._free_at_s[place] = self._clock() + expected_s
            await self._run(batch)
            self._free_at_s[place] = self._clock()

    async def _next_batch(self) -> _Requests:
        """Wait for requests; an empty batch means that all is done."""
        while True:
            while not self._queue:
                if self._stopping:
                    return []
                self._wake.clear()
                await self._wake.wait()
            batch, hopeless = self._queue.next_batch(self._clock(), self._engine_state())
            for request in hopeless:
                _fail(request.payload.reply, too_late())
            if batch:
                return batch

    async def _run(self, batch: _Requests) -> None:
        """Run a batch. Where it fails its halves are run, so that only what cannot be run fails."""
        started_s = self._clock()
        images = _stacked([request.payload.image for request in batch])
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(
                self._engine, self._runtime.infer, images
            )
        except Exception as error:
            # Whatever an engine raises must not end the loop; the cause goes to the log.
            await self._failed(batch, error)
            return
        infer_s = self._clock() - started_s
        self._latency.observe(len(batch), infer_s)
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

    async def _failed(self, batch: _Requests, error: Exception) -> None:
        if len(batch) > 1:
            logger.warning("inference of %d pictures failed (%s); halving", len(batch), error)
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                if wanted := [each for each in half if not each.payload.reply.done()]:
                    await self._run(wanted)
            return
        logger.error("inference of a picture failed", exc_info=error)
        failure = InferenceFailed("the runtime failed on this picture; the server's log says why")
        failure.__cause__ = error
        _fail(batch[0].payload.reply, failure)


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
