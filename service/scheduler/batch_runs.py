"""Runs batches: each member gets its own row, and one that cannot be run fails alone."""

import logging
import time
from collections.abc import Callable

import numpy as np

from service.errors import InferenceFailed, ModelNotReady
from service.runtime.base import Outputs
from service.scheduler.engine_places import EnginePlaces
from service.scheduler.latency import EngineLatency
from service.scheduler.requests import Batch, answer, fail, images_of
from service.scheduler.supervised_runtime import REOPEN_AFTER_S, RuntimeHung, SupervisedRuntime
from service.telemetry import Metrics

logger = logging.getLogger(__name__)


class BatchRuns:
    """Runs batches of one model, and learns what they take."""

    def __init__(
        self,
        runtime: SupervisedRuntime,
        *,
        name: str,
        places: EnginePlaces,
        latency: EngineLatency,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._places = places
        self._latency = latency
        self._metrics = metrics
        self._clock = clock
        #: When a batch was last answered; a reading of the clock.
        self.last_answer_s: float | None = None

    async def run(self, batch: Batch) -> None:
        """Run a batch and answer all of it. Where it fails its halves are run, one by one."""
        waiting = [batch]
        while waiting:
            part = [each for each in waiting.pop() if not each.payload.reply.done()]
            if part and (error := await self._run_once(part)):
                waiting += self._after(error, part)

    async def _run_once(self, batch: Batch) -> Exception | None:
        """Run a batch and answer it, or give the error that the runtime raised."""
        started_s, was_beside = self._clock(), self._places.num_taken > 1
        try:
            outputs = await self._runtime.infer(images_of(batch))
            _require_sound(outputs, len(batch))
        except RuntimeHung as hung:
            fail(batch, ModelNotReady(str(hung), retry_after_s=REOPEN_AFTER_S))
        except Exception as error:
            # Whatever a runtime raises must not end the loop; the cause goes to the log.
            return error
        else:
            now_s = self._clock()
            is_beside = was_beside or self._places.num_taken > 1
            self._latency.observe(len(batch), now_s - started_s, beside=is_beside)
            self._metrics.batch_ended(self._name, now_s - started_s)
            self.last_answer_s = now_s
            answer(batch, outputs, started_s, now_s - started_s)
        return None

    def _after(self, error: Exception, batch: Batch) -> list[Batch]:
        """The halves of a failed batch, the first one last; a single picture is answered."""
        if len(batch) > 1:
            logger.warning("inference of %d pictures failed (%s); halving", len(batch), error)
            middle = len(batch) // 2
            return [batch[middle:], batch[:middle]]
        # In its request's context, so that the line has the request's id.
        batch[0].payload.context.run(logger.error, "inference of a picture failed", exc_info=error)
        failure = InferenceFailed("the runtime failed on this picture; the server's log says why")
        failure.__cause__ = error
        self._metrics.inference_failed(self._name)
        fail(batch, failure)
        return []


def _require_sound(outputs: Outputs, num_rows: int) -> None:
    """A row that is missing must not become another request's answer, nor no number "nothing"."""
    for name, values in outputs.items():
        if len(values) != num_rows:
            raise RuntimeError(f"the runtime gave {len(values)} rows of {name}, not {num_rows}")
    # Boxes of what scores nothing may be anything.
    scores = outputs.get("scores")
    if scores is not None and not np.isfinite(scores).all():
        raise RuntimeError("the runtime gave scores that are no numbers")
