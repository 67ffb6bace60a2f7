"""The loop between requests and a runtime: gather what waits, run it, hand each its own row.

An idle engine never waits for more requests; a busy one lets them gather. What runs next and what
is refused is the queue's policy; what batches take is learnt from those that ran.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from service.detection import Priority
from service.errors import InferenceFailed, ModelNotReady, ServiceError
from service.runtime.base import Runtime
from service.scheduler import refusals
from service.scheduler.batch_runs import BatchRuns
from service.scheduler.engine_places import EnginePlaces
from service.scheduler.latency import EngineLatency
from service.scheduler.queue import Engine, QueuedRequest, RequestQueue
from service.scheduler.requests import Batch, InferenceRow, Waiting, fail
from service.scheduler.supervised_runtime import REOPEN_AFTER_S, Recovery, SupervisedRuntime
from service.telemetry import DispatchReason, Metrics

logger = logging.getLogger(__name__)


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
        latency: EngineLatency | None = None,
        recovery: Recovery | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places` is shared with other models; `latency` is known of the runtime beforehand."""
        self._num_loops = runtime.concurrency
        self._name = name
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._queue: RequestQueue[Waiting] = RequestQueue(max_waiting)
        self._places = places or EnginePlaces(runtime.concurrency, clock=clock)
        self._latency = latency or EngineLatency()
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self._runtime = SupervisedRuntime(
            runtime,
            name=name,
            recovery=recovery or Recovery(),
            on_usable=self._wake.set,
            on_lost=lambda problem: self._give_up(InferenceFailed(problem)),
        )
        self._runs = BatchRuns(
            self._runtime,
            name=name,
            places=self._places,
            latency=self._latency,
            metrics=self._metrics,
            clock=clock,
        )

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the engine, or for their picture to be decoded."""
        return len(self._queue)

    @property
    def problem(self) -> str | None:
        """Why the model cannot be asked now; None while it can."""
        return self._runtime.problem

    @property
    def expected_s(self) -> float:
        """What one picture takes the engine, but for rare ones."""
        return self._latency.alone.high_s(1)

    @property
    def silent_s(self) -> float | None:
        """Seconds since a batch was last answered; None where none was yet."""
        last_s = self._runs.last_answer_s
        return None if last_s is None else self._clock() - last_s

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
        if self._runtime.stop():
            self._give_up(refusals.shutting_down())
        self._wake.set()
        await asyncio.gather(*self._loops)
        self._runtime.close()

    @contextmanager
    def admit(
        self,
        *,
        priority: Priority,
        deadline_s: float,
        client: str = "",
    ) -> Generator["Admitted"]:
        """A place in the queue from now on, before anything is spent on the picture.

        `deadline_s` is a reading of the clock: inference must be done by then. `client` is who
        asks, for a fair share of the engine. When the block ends, however it does, nothing is
        left behind. Raises Overloaded, DeadlineExceeded, ModelNotReady, ShuttingDown.
        """
        reply: asyncio.Future[InferenceRow] = asyncio.get_running_loop().create_future()
        request = QueuedRequest(
            Waiting(reply), priority, self._clock(), deadline_s, client, is_ready=False
        )
        self._require_hope(request)
        self._queue.push(request)
        try:
            yield Admitted(request, self._infer)
        finally:
            self._forget(request)

    async def submit(
        self,
        image: NDArray[np.uint8],
        *,
        priority: Priority,
        deadline_s: float,
        client: str = "",
    ) -> InferenceRow:
        """Infer one picture that is decoded already: `admit` and `Admitted.infer` in one."""
        with self.admit(priority=priority, deadline_s=deadline_s, client=client) as admitted:
            return await admitted.infer(image)

    async def _infer(
        self, request: QueuedRequest[Waiting], image: NDArray[np.uint8]
    ) -> InferenceRow:
        request.payload.image = image
        request.payload.ready_at_s = self._clock()
        request.is_ready = True
        self._wake.set()
        try:
            async with asyncio.timeout(request.deadline_s - self._clock()):
                return await request.payload.reply
        except TimeoutError as error:
            self._metrics.shed(self._name, "expired")
            raise refusals.too_late() from error

    def _forget(self, request: QueuedRequest[Waiting]) -> None:
        """Nobody waits for the request any more."""
        self._queue.discard(request)
        reply = request.payload.reply
        if reply.cancel():
            # Whoever gathers for the end of the queue may be waiting for this one alone.
            self._wake.set()
        elif not reply.cancelled():
            # It may have failed while its picture was decoded; asked for or not, that is no news.
            reply.exception()

    def _require_hope(self, request: QueuedRequest[Waiting]) -> None:
        """Tell a caller at once that this would be in vain.

        No frame that the error leaves has it as a local: the two would keep each other, and the
        picture with them, until garbage is looked for.
        """
        if self._stopping:
            raise refusals.shutting_down()
        if self.problem is not None:
            raise ModelNotReady(self.problem, retry_after_s=REOPEN_AFTER_S)
        left_s = request.deadline_s - request.queued_at_s
        if left_s <= 0:
            self._metrics.shed(self._name, "late-on-arrival")
            raise refusals.too_late()
        engine = self._engine_state(beside=self._places.num_taken)
        late_by_s = self._queue.late_by_s(request, request.queued_at_s, engine)
        if late_by_s <= 0:
            if self._queue.is_full and not self._displace(request):
                raise self._no_room()
            return
        self._metrics.shed(self._name, "late-on-arrival")
        alone_s = engine.latency.high_s(1)
        if not self._queue and engine.free_at_s[0] <= request.queued_at_s:
            engine.latency.doubt()
        raise refusals.in_vain(
            len(self._queue), left_s=left_s, late_by_s=late_by_s, alone_s=alone_s
        )

    def _displace(self, request: QueuedRequest[Waiting]) -> bool:
        """Whether another gave up its place: one of a client that has many."""
        displaced = self._queue.displaced_by(request.client, request.queued_at_s)
        if displaced is None:
            return False
        fail([displaced], self._no_room())
        return True

    def _no_room(self) -> ServiceError:
        self._metrics.shed(self._name, "queue-full")
        next_free_s = self._latency.alone.mean_s(1)
        return refusals.queue_full(len(self._queue), next_free_s=next_free_s)

    def _engine_state(self, *, beside: int) -> Engine:
        """The engine, for a batch that runs beside so many others."""
        return Engine(
            self._runtime.max_batch_size,
            self._latency.of(beside=beside > 0),
            self._places.free_at_s()[: self._num_loops],
            self._places.num_competing(self._name),
        )

    async def _serve(self) -> None:
        while await self._something_is_ready():
            place = await self._places.take(self._name)
            try:
                # Formed only now: what came while the engine was busy may go along.
                if self._runtime.is_usable and (batch := self._next_batch()):
                    latency = self._latency.of(beside=self._places.num_taken > 1)
                    self._places.expect(place, latency.mean_s(len(batch)))
                    await self._runs.run(batch)
            except Exception:
                # A fault of ours. Whoever waits is told; the loop goes on for those who come.
                logger.exception("model %s: a batch could not be formed or answered", self._name)
                self._give_up(InferenceFailed("this is a fault of the server; its log says more"))
            finally:
                self._places.give_back(place, self._name)

    async def _something_is_ready(self) -> bool:
        """Return when there is something to run, and something to run it; False at the end."""
        while not (self._runtime.is_usable and self._queue.has_ready):
            if self._stopping and not self._queue:
                return False
            self._wake.clear()
            await self._wake.wait()
        return True

    def _next_batch(self) -> Batch:
        now_s = self._clock()
        engine = self._engine_state(beside=self._places.num_taken - 1)
        batch, hopeless = self._queue.next_batch(now_s, engine)
        if hopeless:
            for _ in hopeless:
                self._metrics.shed(self._name, "hopeless")
            fail(hopeless, refusals.too_late())
        if batch:
            reason = self._reason(len(batch))
            for request in batch:
                request.payload.reason = reason
            self._metrics.batch_ran(
                self._name,
                [now_s - request.payload.ready_at_s for request in batch],
                most=self._runtime.max_batch_size,
                left_waiting=len(self._queue),
                reason=reason,
            )
        return batch

    def _reason(self, size: int) -> DispatchReason:
        """Why the batch that was just taken has that size."""
        if size == self._runtime.max_batch_size:
            return "full"
        if self._queue.has_ready:
            return "deadline"
        return "drain" if self._stopping else "idle"

    def _give_up(self, error: ServiceError) -> None:
        """Answer everything that waits with an error."""
        fail(self._queue.drain(), error)
        self._wake.set()


class Admitted:
    """A request that has its place in the queue."""

    def __init__(
        self,
        request: QueuedRequest[Waiting],
        infer: Callable[
            [QueuedRequest[Waiting], NDArray[np.uint8]], Coroutine[None, None, InferenceRow]
        ],
    ) -> None:
        self._request = request
        self._infer = infer

    @property
    def is_over(self) -> bool:
        """Whether it was given up while its picture was decoded; `infer` says why."""
        return self._request.payload.reply.done()

    async def infer(self, image: NDArray[np.uint8]) -> InferenceRow:
        """Infer the picture, uint8 [h, w, 3], which must not change until then.

        Raises DeadlineExceeded, InferenceFailed, ModelNotReady, ShuttingDown. A caller that is
        cancelled leaves nothing behind.
        """
        return await self._infer(self._request, image)
