"""The loop between requests and a runtime: gather what waits, run it, hand each its own row.

An idle engine never waits for more requests; a busy one lets them gather. What runs next and what
is refused is the queue's policy; what batches take is learnt from those that ran.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.detection import Priority
from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    ServiceError,
    ShuttingDown,
)
from service.runtime.base import Outputs, Runtime
from service.scheduler.engine_places import EnginePlaces
from service.scheduler.engine_threads import EngineThreads
from service.scheduler.latency import LatencyModel
from service.scheduler.queue import Engine, QueuedRequest, RequestQueue
from service.telemetry import DispatchReason, Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceRow:
    """What one request gets of its batch: its row of every output, and how it went."""

    outputs: Mapping[str, NDArray[np.generic]]
    batch_size: int
    queue_s: float
    infer_s: float
    reason: DispatchReason


@dataclass(eq=False)
class _Waiting:
    """A picture and who waits for its answer; why its batch ran, once it did."""

    image: NDArray[np.uint8]
    reply: "asyncio.Future[InferenceRow]"
    context: Context = field(default_factory=copy_context)
    reason: DispatchReason = "idle"


_Requests = list[QueuedRequest[_Waiting]]

#: How long to wait before a runtime is opened again that could not be opened, at first and at most.
_REOPEN_AFTER_S = 1.0
_REOPEN_AFTER_AT_MOST_S = 60.0


@dataclass(frozen=True)
class Recovery:
    """What becomes of a runtime that hangs.

    A call that takes longer than `hang_s` will not come back; `reopen` gives another runtime, and
    may raise. Without it the model stays out of service.
    """

    hang_s: float = 60.0
    reopen: Callable[[], Runtime] | None = None


@dataclass(frozen=True, eq=False)
class _Engine:
    """A runtime and the threads that call it."""

    runtime: Runtime
    threads: EngineThreads


class Batcher:
    """Owns the runtime of one model. Start and stop it on the event loop that its callers run on.

    A runtime that hangs is left to itself: what it had is answered, `problem` says so, and another
    takes its place.
    """

    def __init__(  # noqa: PLR0913 - what it is put together of
        self,
        runtime: Runtime,
        *,
        max_waiting: int,
        name: str = "model",
        metrics: Metrics | None = None,
        places: EnginePlaces | None = None,
        latency: LatencyModel | None = None,
        recovery: Recovery = Recovery(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places` is shared with other models; `latency` is known of the runtime beforehand."""
        self._engine: _Engine | None = _engine(runtime)
        self._num_loops = runtime.concurrency
        self._max_batch_size = runtime.max_batch_size
        self._name = name
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._queue: RequestQueue[_Waiting] = RequestQueue(max_waiting)
        self._places = places or EnginePlaces(runtime.concurrency, clock=clock)
        self._latency = latency or LatencyModel()
        #: Of batches that run beside others: on a processor they slow each other down.
        self._latency_beside = LatencyModel()
        self._recovery = recovery
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._replacing: asyncio.Task[None] | None = None
        self._stopping = False
        #: Why the model cannot be asked now; None while it can.
        self.problem: str | None = None

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the engine."""
        return len(self._queue)

    def measure(self) -> None:
        """Report how much waits, and whether the runtime answers."""
        oldest_s = self._queue.oldest_queued_at_s
        wait_s = 0.0 if oldest_s is None else self._clock() - oldest_s
        self._metrics.queue_is(self._name, len(self._queue), wait_s)
        self._metrics.backend_is(self._name, up=self.problem is None)

    def start(self) -> None:
        """Begin to serve: one loop for each call that the runtime takes at once."""
        self._loops = [
            asyncio.create_task(self._serve(), name=f"batcher-{self._name}-{number}")
            for number in range(self._num_loops)
        ]

    async def stop(self) -> None:
        """Finish what is queued, refuse what comes, release the runtime."""
        self._stopping = True
        if self._replacing is not None:
            self._replacing.cancel()
            self._give_up(_shutting_down())
        self._wake.set()
        await asyncio.gather(*self._loops)
        if self._engine is not None:
            self._engine.threads.close()
            self._engine.runtime.close()

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
        ModelNotReady, ShuttingDown, InferenceFailed. A caller that is cancelled leaves nothing
        behind.
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
            self._metrics.shed(self._name, "expired")
            raise too_late() from error
        finally:
            self._queue.discard(request)

    def _admit(self, request: QueuedRequest[_Waiting]) -> None:
        """Queue a request, or raise what tells its caller at once that this would be in vain."""
        if self._stopping:
            raise _shutting_down()
        if self.problem is not None:
            raise ModelNotReady(self.problem, retry_after_s=_REOPEN_AFTER_S)
        left_s = request.deadline_s - request.queued_at_s
        if left_s <= 0:
            raise too_late()
        if self._queue.is_full:
            self._metrics.shed(self._name, "queue-full")
            raise Overloaded(
                f"{len(self._queue)} requests are waiting for this model; try again later",
                retry_after_s=max(self._latency.mean_s(1), 1.0),
            )
        engine = self._engine_state(beside=self._places.num_taken)
        late_by_s = self._queue.late_by_s(request, request.queued_at_s, engine)
        if late_by_s > 0:
            if not self._queue and engine.free_at_s[0] <= request.queued_at_s:
                engine.latency.doubt()
            self._metrics.shed(self._name, "late-on-arrival")
            raise self._in_vain(left_s, late_by_s, engine.latency.high_s(1))
        self._queue.push(request)

    def _in_vain(self, left_s: float, late_by_s: float, alone_s: float) -> ServiceError:
        """What tells a caller that the answer would come too late; one alone takes `alone_s`."""
        left_ms = round(left_s * 1000)
        if alone_s > left_s:
            return DeadlineExceeded(
                f"inference alone takes {round(alone_s * 1000)} ms, and {left_ms} ms were left; "
                "allow more with timeout_ms"
            )
        return Overloaded(
            f"{len(self._queue)} requests are waiting for this model: inference would be done "
            f"after {left_ms + round(late_by_s * 1000)} ms, and {left_ms} ms were left; try again "
            "later, or allow more with timeout_ms",
            retry_after_s=late_by_s,
        )

    def _engine_state(self, *, beside: int) -> Engine:
        """The engine, for a batch that runs beside so many others."""
        return Engine(
            self._max_batch_size,
            self._latency_of(beside=beside),
            self._places.free_at_s()[: self._num_loops],
            self._places.num_competing(self._name),
        )

    def _latency_of(self, *, beside: int) -> LatencyModel:
        return self._latency_beside if beside and self._latency_beside.is_known else self._latency

    async def _serve(self) -> None:
        while await self._something_waits():
            place = await self._places.take(self._name)
            try:
                # Formed only now: what came while the engine was busy may go along.
                if (engine := self._engine) is not None and (batch := self._next_batch()):
                    latency = self._latency_of(beside=self._places.num_taken - 1)
                    self._places.expect(place, latency.mean_s(len(batch)))
                    await self._run(batch, engine)
            finally:
                self._places.give_back(place, self._name)

    async def _something_waits(self) -> bool:
        """Return when there is something to run, and something to run it; False at the end."""
        while not self._queue or self._engine is None:
            if self._stopping:
                return False
            self._wake.clear()
            await self._wake.wait()
        return True

    def _next_batch(self) -> _Requests:
        now_s = self._clock()
        engine = self._engine_state(beside=self._places.num_taken - 1)
        batch, hopeless = self._queue.next_batch(now_s, engine)
        for request in hopeless:
            self._metrics.shed(self._name, "hopeless")
            _fail(request.payload.reply, too_late())
        if batch:
            reason = self._reason(len(batch))
            for request in batch:
                request.payload.reason = reason
            self._metrics.batch_ran(
                self._name,
                [now_s - request.queued_at_s for request in batch],
                most=self._max_batch_size,
                left_waiting=len(self._queue),
                reason=reason,
            )
        return batch

    def _reason(self, size: int) -> DispatchReason:
        """Why the batch that was just taken has that size."""
        if size == self._max_batch_size:
            return "full"
        if self._queue:
            return "deadline"
        return "drain" if self._stopping else "idle"

    async def _run(self, batch: _Requests, engine: _Engine) -> None:
        """Run a batch. Where it fails its halves are run, so that only what cannot be run fails."""
        started_s, was_beside = self._clock(), self._places.num_taken > 1
        images = _stacked([request.payload.image for request in batch])
        call = engine.threads.run(lambda: engine.runtime.infer(images))
        await asyncio.wait((call,), timeout=self._recovery.hang_s)
        if not call.done():
            call.cancel()
            self._hung(batch, engine)
        elif (error := call.exception()) is not None:
            await self._failed(batch, engine, error)
        else:
            infer_s = self._clock() - started_s
            is_beside = was_beside or self._places.num_taken > 1
            (self._latency_beside if is_beside else self._latency).observe(len(batch), infer_s)
            self._metrics.batch_ended(self._name, infer_s)
            _answer(batch, call.result(), started_s, infer_s)

    async def _failed(self, batch: _Requests, engine: _Engine, error: BaseException) -> None:
        # Whatever a runtime raises must not end the loop; the cause goes to the log.
        if len(batch) > 1:
            logger.warning("inference of %d pictures failed (%s); halving", len(batch), error)
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                if wanted := [each for each in half if not each.payload.reply.done()]:
                    await self._run(wanted, engine)
            return
        # In its request's context, so that the line has the request's id.
        batch[0].payload.context.run(logger.error, "inference of a picture failed", exc_info=error)
        failure = InferenceFailed("the runtime failed on this picture; the server's log says why")
        failure.__cause__ = error
        self._metrics.inference_failed(self._name)
        _fail(batch[0].payload.reply, failure)

    def _hung(self, batch: _Requests, engine: _Engine) -> None:
        """Answer what the runtime had, and replace it, once for all calls that it has not ended."""
        hang_s = self._recovery.hang_s
        logger.error("model %s: no answer from the runtime for %g s", self._name, hang_s)
        failure = InferenceFailed(
            f"the runtime gave no answer within {hang_s:g} s and is replaced; try again"
        )
        for request in batch:
            _fail(request.payload.reply, failure)
        if engine is self._engine:
            self._engine = None
            self.problem = "the runtime of this model hung and is being replaced; try again"
            engine.threads.close()
            if self._stopping:
                self._give_up(_shutting_down())
                return
            self._replacing = asyncio.create_task(self._replace(), name=f"reopen-{self._name}")

    async def _replace(self) -> None:
        """Open the runtime anew, as often as it takes. What waits goes on waiting meanwhile."""
        if self._recovery.reopen is None:
            self.problem = "the runtime of this model hung; restart the server"
            self._give_up(InferenceFailed(self.problem))
            return
        after_s = _REOPEN_AFTER_S
        while self._engine is None:
            opening = EngineThreads(1)
            try:
                self._engine = _engine(await opening.run(self._recovery.reopen))
            except Exception as error:
                self.problem = f"the runtime of this model hung and cannot be replaced: {error}"
                logger.exception("model %s: the runtime cannot be replaced", self._name)
                await asyncio.sleep(after_s)
                after_s = min(2 * after_s, _REOPEN_AFTER_AT_MOST_S)
            finally:
                opening.close()
        self._replacing = self.problem = None
        logger.warning("model %s: the runtime is replaced", self._name)
        self._wake.set()

    def _give_up(self, error: ServiceError) -> None:
        """Answer everything that waits with an error."""
        for request in self._queue.drain():
            _fail(request.payload.reply, error)


def _engine(runtime: Runtime) -> _Engine:
    return _Engine(runtime, EngineThreads(runtime.concurrency))


def _answer(batch: _Requests, outputs: Outputs, started_s: float, infer_s: float) -> None:
    """Give each request of a batch its own row."""
    for row, request in enumerate(batch):
        if not request.payload.reply.done():
            request.payload.reply.set_result(
                InferenceRow(
                    outputs=_row_of(outputs, row),
                    batch_size=len(batch),
                    queue_s=started_s - request.queued_at_s,
                    infer_s=infer_s,
                    reason=request.payload.reason,
                )
            )


def _stacked(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One batch; a single picture is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def _row_of(outputs: Outputs, row: int) -> dict[str, NDArray[np.generic]]:
    return {name: values[row] for name, values in outputs.items()}


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; send the request to another")


def too_late() -> DeadlineExceeded:
    """The answer to a request whose time is over."""
    return DeadlineExceeded(
        "the request's time was over before its turn came; allow more with timeout_ms, "
        "or send fewer requests at once"
    )


def _fail(reply: "asyncio.Future[InferenceRow]", error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
