"""The batcher under arrivals, slow decoding, cancellations, deadlines, failures, hangs, swaps and
shutdown in any order.

Every picture carries a token, and the runtime answers with it: an answer given to another, twice or
never shows.
"""

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    ServiceError,
    ShuttingDown,
)
from service.runtime.base import Outputs
from service.scheduler.batcher import Batcher
from service.scheduler.latency import EngineLatency, LatencyModel
from service.scheduler.requests import InferenceRow
from service.scheduler.supervised_runtime import Recovery

MAX_WAITING = 12
POISONOUS = 250


class Troubled:
    """A runtime whose next call does what it is told; a picture from `POISONOUS` on never works."""

    description = "troubled"
    output_names = ("boxes",)
    max_batch_size = 3
    concurrency = 2

    def __init__(self) -> None:
        self.told: list[str] = []
        self.let_go = threading.Event()
        self.inferred: Counter[int] = Counter()
        self._lock = threading.Lock()

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        with self._lock:
            told = self.told.pop() if self.told else "work"
        if told == "hang":
            self.let_go.wait(30)
        tokens = images[:, 0, 0, 0].astype(int)
        if told != "work" or (tokens >= POISONOUS).any():
            raise RuntimeError(told)
        with self._lock:
            self.inferred.update(tokens.tolist())
        return {"boxes": tokens[:, None]}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Asked:
    """A request and its answer to come."""

    token: int
    answer: "asyncio.Task[InferenceRow]"
    decoded: asyncio.Event


class BatcherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now_s = 0.0
        self.runtime = Troubled()
        self.asked: list[Asked] = []
        self.trouble = False
        self.hang_s = 60.0
        #: Those that were swapped for others, and finish what they have.
        self.stopping: list[asyncio.Task[None]] = []
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        self.batcher = Batcher(
            self.runtime,
            max_waiting=MAX_WAITING,
            latency=EngineLatency(LatencyModel({1: 1.0, 3: 2.0})),
            recovery=Recovery(self.hang_s, lambda: self.runtime),
            clock=lambda: self.now_s,
        )
        self.batcher.start()

    def turn(self, times: int = 3) -> None:
        """Let the loop go round."""
        for _ in range(times):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(
        drawn=st.lists(
            st.tuples(
                st.sampled_from(["high", "normal", "low"]),
                st.sampled_from([-1.0, 0.5, 2.0, 10.0, 1000.0, 1000.0]),
                st.sampled_from(["", "a", "b"]),
                st.sampled_from([False, False, False, True]),
                st.booleans(),
            ),
            min_size=1,
            max_size=6,
        ),
        turns=st.integers(0, 2),
    )
    def ask(self, drawn: list[tuple[Any, float, str, bool, bool]], turns: int) -> None:
        """Some at once, some of which take a while to be decoded."""
        for priority, within_s, client, is_poisonous, decodes_slowly in drawn:
            token = POISONOUS if is_poisonous else len(self.asked) % POISONOUS
            decoded = asyncio.Event()
            if not decodes_slowly:
                decoded.set()
            answer = self._infer(token, decoded, priority, self.now_s + within_s, client)
            self.asked.append(Asked(token, self.loop.create_task(answer), decoded))
        self.turn(turns)

    async def _infer(
        self, token: int, decoded: asyncio.Event, priority: Any, deadline_s: float, client: str
    ) -> InferenceRow:
        batcher = self.batcher
        with batcher.admit(priority=priority, deadline_s=deadline_s, client=client) as admitted:
            await decoded.wait()
            return await admitted.infer(np.full((2, 2, 3), token, np.uint8))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), turns=st.integers(0, 2))
    def decode(self, data: st.DataObject, turns: int) -> None:
        data.draw(st.sampled_from(self.asked)).decoded.set()
        self.turn(turns)

    @precondition(lambda self: len(self.stopping) < 3)
    @rule(turns=st.integers(0, 2))
    def swap(self, turns: int) -> None:
        """Another version takes over; this one finishes what it has."""
        self.stopping.append(self.loop.create_task(self.batcher.stop()))
        self.loop.run_until_complete(self._start())
        self.turn(turns)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), turns=st.integers(0, 2))
    def cancel(self, data: st.DataObject, turns: int) -> None:
        data.draw(st.sampled_from(self.asked)).answer.cancel()
        self.turn(turns)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.turn()

    @rule()
    def fail_once(self) -> None:
        self.trouble = True
        self.runtime.told.append("fail")

    @precondition(lambda self: self.hang_s == 60.0)
    @rule()
    def hang_once(self) -> None:
        self.trouble = True
        self.runtime.told.append("hang")
        self.hang_s = 0.1
        self.batcher._runtime.recovery = Recovery(self.hang_s, lambda: self.runtime)

    @rule()
    def work_goes_on(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0.002))

    @invariant()
    def no_more_wait_than_may(self) -> None:
        assert self.batcher.num_waiting <= MAX_WAITING

    @invariant()
    def nothing_runs_twice_for_one_request(self) -> None:
        given = Counter(asked.token for asked in self.asked)
        # A batch that failed is run again by halves, and nothing of it was counted before.
        assert all(count <= given[token] for token, count in self.runtime.inferred.items())

    def teardown(self) -> None:
        self.loop.run_until_complete(asyncio.wait_for(self._end(), 20))
        self.runtime.let_go.set()
        self.loop.close()

    async def _end(self) -> None:
        # A call that had begun before it was told to hang may take its full time.
        self.loop.call_later(1.0, self.runtime.let_go.set)
        while self.batcher.problem is not None:
            await asyncio.sleep(0.001)
        for asked in self.asked:
            asked.decoded.set()
        await asyncio.gather(self.batcher.stop(), *self.stopping)
        answers = await asyncio.gather(
            *(asked.answer for asked in self.asked), return_exceptions=True
        )
        assert self.batcher.num_waiting == 0
        for asked, answer in zip(self.asked, answers, strict=True):
            self.check(asked, answer)

    def check(self, asked: Asked, answer: InferenceRow | BaseException) -> None:
        """The answer is one that this request may get."""
        if isinstance(answer, InferenceRow):
            assert answer.outputs["boxes"].tolist() == [asked.token]
            assert asked.token < POISONOUS
            assert 1 <= answer.batch_size <= Troubled.max_batch_size
        elif isinstance(answer, InferenceFailed):
            assert self.trouble or asked.token >= POISONOUS
        else:
            allowed: tuple[type[ServiceError], ...] = (DeadlineExceeded, Overloaded, ShuttingDown)
            if self.trouble:
                allowed += (ModelNotReady,)
            assert isinstance(answer, (asyncio.CancelledError, *allowed)), answer


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
