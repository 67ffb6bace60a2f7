"""Whether a model answers: by a real inference of a moment ago, not by a flag."""

import asyncio
import time

import numpy as np

from service.errors import DeadlineExceeded, ServiceError
from service.scheduler.batcher import Batcher

#: An inference that is older says nothing any more.
FRESH_S = 5.0

#: Who asks is answered within this, if need be with what was found before: probes wait not long.
_ANSWER_WITHIN_S = 0.5

#: The least time after which there will be no answer.
_PATIENCE_S = 2.0


class Canary:
    """Asks a model's batcher, as any request does, where no request did so lately."""

    def __init__(self, batcher: Batcher, input_size: tuple[int, int]) -> None:
        self._batcher = batcher
        self._blank = np.zeros((*input_size, 3), np.uint8)
        self._asking: asyncio.Task[str | None] | None = None
        self._last_problem: str | None = "no inference yet"

    async def problem(self) -> str | None:
        """Why the model does not answer, or None. Askers at the same time share one inference."""
        if self._batcher.problem is not None:
            return self._batcher.problem
        silent_s = self._batcher.silent_s
        if silent_s is not None and silent_s < FRESH_S:
            return None
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        # Not awaited itself: who asks and goes away must not end it for the others.
        await asyncio.wait((self._asking,), timeout=_ANSWER_WITHIN_S)
        return self._asking.result() if self._asking.done() else self._last_problem

    async def _ask(self) -> str | None:
        self._last_problem = await self._infer()
        return self._last_problem

    async def _infer(self) -> str | None:
        patience_s = max(_PATIENCE_S, 4 * self._batcher.expected_s)
        try:
            await self._batcher.submit(
                self._blank,
                priority="high",
                deadline_s=time.monotonic() + patience_s,
                client="readiness",
            )
        except DeadlineExceeded as error:
            return f"no inference within {patience_s:g} s ({error})"
        except ServiceError as error:
            return f"no inference: {error}"
        return None
