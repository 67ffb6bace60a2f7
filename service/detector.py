"""The one use-case: bytes of a picture in, detections out. Every interface calls it."""

import contextvars
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from service.codecs.images import ImageLimits
from service.detection import DetectionResult, DetectOptions
from service.errors import Overloaded
from service.model_options import postprocess_settings
from service.registry import ModelRegistry
from service.scheduler.batcher import Admitted
from service.scheduler.call_threads import CallThreads, Order
from service.scheduler.queue import AGEING_S, RANK
from service.scheduler.working_memory import WorkingMemory
from service.stages import Asked, Inferred, NetworkInput, Present, Stages
from service.tracing.base import NO_TRACING, Tracing

Answer = TypeVar("Answer")

#: What has been inferred is answered before anything new is decoded.
_FINISHING: Order = (0, 0.0)

#: Part of a request's time that is kept free for post-processing at most.
_KEPT_FREE_AT_MOST = 0.25


@dataclass(frozen=True)
class DetectorLimits:
    """What one request may cost, and what all of them together.

    `max_in_flight` counts the pictures of one model from their arrival to their answer,
    `max_working_bytes` what is decoded, and masks, of all models.
    """

    image: ImageLimits
    max_in_flight: int
    default_timeout_s: float
    max_working_bytes: int = 1024 * 1024 * 1024
    max_images_per_request: int = 32

    def allowed_s(self, options: DetectOptions) -> float:
        """How long a request may take: what it asks for, and no more than all may."""
        return min(options.timeout_s or self.default_timeout_s, self.default_timeout_s)


class Detector:
    """Decodes, infers and post-processes; the work runs on threads, never on the event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        workers: CallThreads,
        limits: DetectorLimits,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.registry = registry
        self.metrics = registry.metrics
        self.limits = limits
        self.tracing = tracing
        self._workers = workers
        self._stages = Stages(limits.image, WorkingMemory(limits.max_working_bytes))
        self._in_flight: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self.registry.start()

    async def stop(self) -> None:
        """Finish what is under way and release everything."""
        await self.registry.stop()
        self._workers.close()

    def metrics_now(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self.registry.measure()
        return self.metrics.exposition()

    async def detect(
        self,
        data: bytes,
        options: DetectOptions,
        present: Present[Answer],
        *,
        client: str = "",
        draws: bool = False,
    ) -> Answer:
        """Detect in one encoded picture and give what `present` makes of it.

        `client` is who asks: those of the same priority take turns. `draws` says that `present`
        will ask for the picture. Raises the errors of `service.errors`.
        """
        arrived_s = time.monotonic()
        model = self.registry.resolve(options.model)
        with self._under_way(model.source.name, client):
            asked = Asked(
                data,
                options,
                model,
                postprocess_settings(model.source, options),
                arrived_s,
                arrived_s + self.limits.allowed_s(options),
                draws,
            )
            return await self._detect(asked, present, client)

    @contextmanager
    def _under_way(self, model: str, client: str) -> Generator[None]:
        """A place among the pictures of a model that are under way. Raises Overloaded.

        Where there are too many, a client that has less than its part may come in nevertheless.
        """
        clients = self._in_flight[model]
        total, most = clients.total(), self.limits.max_in_flight
        if total >= most and clients[client] * len(clients) >= most:
            self.metrics.shed(model, "under-way")
            raise Overloaded(
                f"{total} pictures are under way for this model; try again later",
                retry_after_s=1.0,
            )
        clients[client] += 1
        try:
            yield
        finally:
            clients[client] -= 1
            if not clients[client]:
                del clients[client]

    def _kept_free_s(self, asked: Asked) -> float:
        """Time to be left after inference: what post-processing takes of late, within reason.

        It depends on the pictures and on what is in them, of which the last ones say little.
        """
        allowed_s = asked.deadline_s - asked.arrived_s
        return min(asked.model.postprocessing.mean_s(1), _KEPT_FREE_AT_MOST * allowed_s)

    async def _detect(self, asked: Asked, present: Present[Answer], client: str) -> Answer:
        model = asked.model
        with model.batcher.admit(
            priority=asked.options.priority,
            # Inference must end while there is time for what follows.
            deadline_s=asked.deadline_s - self._kept_free_s(asked),
            client=client,
        ) as admitted:
            prepared = await self._prepare(asked, admitted)
            inferred = await self._infer(asked, admitted, prepared)
        with self.tracing.stage("postprocess") as span:

            def note(result: DetectionResult) -> None:
                span.set("rtmdet.detections", len(result.detections))
                span.lasted(result.timings.postprocess_s)
                self.metrics.detected(result)

            answer = await self._on_worker(
                lambda: self._stages.finish(asked, inferred, note, present), _FINISHING
            )
        model.postprocessing.observe(1, time.monotonic() - inferred.ended_s)
        return answer

    async def _prepare(self, asked: Asked, admitted: Admitted) -> NetworkInput:
        with self.tracing.stage("decode") as span:
            span.set("rtmdet.image.bytes", len(asked.data))
            prepared = await self._on_worker(
                lambda: self._stages.prepare(asked, admitted), _order_of(asked)
            )
            span.set("rtmdet.image.width", prepared.geometry.image_width)
            span.set("rtmdet.image.height", prepared.geometry.image_height)
        return prepared

    async def _infer(self, asked: Asked, admitted: Admitted, prepared: NetworkInput) -> Inferred:
        began_s = time.time()
        with self.tracing.stage("queue", began_s=began_s) as span:
            span.set("rtmdet.priority", asked.options.priority)
            row = await admitted.infer(prepared.pixels)
            span.lasted(row.queue_s)
        # The batch that answered, after the fact: it may have answered others too.
        with self.tracing.stage("infer", began_s=began_s + row.queue_s) as span:
            span.set("rtmdet.model.name", asked.model.identity.name)
            span.set("rtmdet.model.version", asked.model.identity.version)
            span.set("rtmdet.batch.size", row.batch_size)
            span.set("rtmdet.batch.reason", row.reason)
            span.lasted(row.infer_s)
        return Inferred(row, prepared, time.monotonic())

    async def _on_worker(self, work: Callable[[], Answer], order: Order) -> Answer:
        # What is logged there belongs to the request as well.
        run = contextvars.copy_context().run
        return await self._workers.run(lambda: run(work), order)


def _order_of(asked: Asked) -> Order:
    """As in the queue: a step of priority is worth so much waiting."""
    return 1, asked.arrived_s + RANK[asked.options.priority] * AGEING_S
