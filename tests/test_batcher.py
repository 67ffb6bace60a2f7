import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelNotReady,
    Overloaded,
    ShuttingDown,
)
from service.runtime.base import Outputs
from service.runtime.fake import FakeRuntime
from service.scheduler.batcher import Batcher
from service.scheduler.latency import EngineLatency, LatencyModel
from service.scheduler.requests import InferenceRow
from service.scheduler.supervised_runtime import Recovery


def picture(token: int) -> np.ndarray:
    """A picture whose first pixel makes the fake runtime answer with `token`."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[0, 0] = token % 256, token // 256, 9
    return image


def token_of(row: InferenceRow) -> int:
    x, y = row.outputs["boxes"][0][:2]
    return int(x) + 256 * int(y)


def served(
    runtime: FakeRuntime,
    use: Callable[[Batcher], Awaitable[None]],
    *,
    max_waiting: int = 1000,
) -> None:
    """Run `use` on a started batcher, and stop it after."""

    async def run() -> None:
        batcher = Batcher(runtime, max_waiting=max_waiting)
        batcher.start()
        try:
            await use(batcher)
        finally:
            await batcher.stop()

    asyncio.run(run())


def submit(batcher: Batcher, token: int, timeout_s: float = 30.0) -> Awaitable[InferenceRow]:
    return batcher.submit(
        picture(token), priority="normal", deadline_s=time.monotonic() + timeout_s
    )


class Gate:
    """A fault that holds the engine until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, images: np.ndarray) -> None:
        self.entered.set()
        assert self.open.wait(10)


def test_submit__together_each_gets_its_own_answer() -> None:
    runtime = FakeRuntime(max_batch_size=4, concurrency=2)

    async def use(batcher: Batcher) -> None:
        rows = await asyncio.gather(*(submit(batcher, token) for token in range(500)))
        assert [token_of(row) for row in rows] == list(range(500))

    served(runtime, use)
    assert sum(runtime.batch_sizes) == 500
    assert max(runtime.batch_sizes) <= 4


def test_submit__a_busy_engine_lets_requests_gather() -> None:
    gate = Gate()
    runtime = FakeRuntime(max_batch_size=8, fault=gate)

    async def use(batcher: Batcher) -> None:
        first = asyncio.ensure_future(submit(batcher, 0))
        await asyncio.to_thread(gate.entered.wait, 10)
        others = [asyncio.ensure_future(submit(batcher, token)) for token in range(1, 6)]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        assert {row.batch_size for row in await asyncio.gather(*others)} == {5}

    served(runtime, use)
    assert runtime.batch_sizes == [1, 5]


def test_submit__more_than_may_wait_are_refused_at_once() -> None:
    gate = Gate()

    async def use(batcher: Batcher) -> None:
        running = asyncio.ensure_future(submit(batcher, 0))
        await asyncio.to_thread(gate.entered.wait, 10)
        queued = [asyncio.ensure_future(submit(batcher, token)) for token in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await submit(batcher, 3)
        assert caught.value.retry_after_s is not None
        gate.open.set()
        await asyncio.gather(running, *queued)

    served(FakeRuntime(max_batch_size=1, fault=gate), use, max_waiting=2)


def test_submit__deadline_over_while_waiting() -> None:
    gate = Gate()
    runtime = FakeRuntime(max_batch_size=1, fault=gate)

    async def use(batcher: Batcher) -> None:
        running = asyncio.ensure_future(submit(batcher, 0))
        await asyncio.to_thread(gate.entered.wait, 10)
        with pytest.raises(DeadlineExceeded, match="timeout_ms"):
            await submit(batcher, 1, timeout_s=0.01)
        gate.open.set()
        await running

    served(runtime, use)
    assert runtime.batch_sizes == [1], "a request that nobody waits for was inferred"


def test_submit__what_cannot_be_in_time_is_refused_on_arrival() -> None:
    gate = Gate()
    runtime = FakeRuntime(max_batch_size=1, fault=gate)

    async def use() -> None:
        latency = EngineLatency(LatencyModel({1: 20.0}))
        batcher = Batcher(runtime, max_waiting=10, latency=latency, clock=lambda: 0.0)
        batcher.start()
        # Refused by an idle engine: what is known of it is doubted, and 19.4 s from now on.
        with pytest.raises(DeadlineExceeded, match="takes 20000 ms, and 10000 ms were left"):
            await batcher.submit(picture(0), priority="normal", deadline_s=10.0)
        running = asyncio.ensure_future(
            batcher.submit(picture(1), priority="normal", deadline_s=60.0)
        )
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = asyncio.ensure_future(
            batcher.submit(picture(2), priority="normal", deadline_s=60.0)
        )
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="after 58200 ms, and 55000 ms were left") as caught:
            await batcher.submit(picture(3), priority="low", deadline_s=55.0)
        assert caught.value.retry_after_s == pytest.approx(3.2)
        gate.open.set()
        assert [token_of(row) for row in await asyncio.gather(running, waiting)] == [1, 2]
        await batcher.stop()

    asyncio.run(use())
    assert runtime.batch_sizes == [1, 1]


def test_submit__what_batches_take_beside_others_concerns_a_busy_engine_alone() -> None:
    gate = Gate()
    runtime = FakeRuntime(max_batch_size=1, concurrency=2, fault=gate)

    async def use() -> None:
        latency = EngineLatency(LatencyModel({1: 1.0}), LatencyModel({1: 3.0}))
        batcher = Batcher(runtime, max_waiting=10, latency=latency, clock=lambda: 0.0)
        batcher.start()
        alone = asyncio.ensure_future(batcher.submit(picture(1), priority="normal", deadline_s=2.0))
        await asyncio.to_thread(gate.entered.wait, 10)
        with pytest.raises(DeadlineExceeded, match="takes 3000 ms, and 2000 ms were left"):
            await batcher.submit(picture(2), priority="normal", deadline_s=2.0)
        gate.open.set()
        assert token_of(await alone) == 1
        await batcher.stop()

    asyncio.run(use())


def test_submit__an_abandoned_request_makes_place() -> None:
    gate = Gate()

    async def use(batcher: Batcher) -> None:
        running = asyncio.ensure_future(submit(batcher, 0))
        await asyncio.to_thread(gate.entered.wait, 10)
        gone = asyncio.ensure_future(submit(batcher, 1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        kept = asyncio.ensure_future(submit(batcher, 2))
        await asyncio.sleep(0)
        gate.open.set()
        assert [token_of(row) for row in await asyncio.gather(running, kept)] == [0, 2]

    served(FakeRuntime(max_batch_size=1, fault=gate), use, max_waiting=1)


def test_submit__a_poisonous_picture_fails_alone() -> None:
    gate = Gate()

    def fault(images: np.ndarray) -> None:
        gate(images)
        if (images[:, 0, 0, 0] == 13).any():
            raise RuntimeError("poisoned")

    runtime = FakeRuntime(max_batch_size=8, fault=fault)

    async def use(batcher: Batcher) -> None:
        first = asyncio.ensure_future(submit(batcher, 0))
        await asyncio.to_thread(gate.entered.wait, 10)
        others = [asyncio.ensure_future(submit(batcher, token)) for token in range(10, 18)]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        answers = await asyncio.gather(*others, return_exceptions=True)
        for token, answer in zip(range(10, 18), answers, strict=True):
            assert_fits(answer, "poison" if token == 13 else "keep", token)

    served(runtime, use)
    # Eight, the half with the picture, its quarter with it, that alone: and each one's neighbour.
    assert runtime.batch_sizes == [1, 8, 4, 2, 2, 1, 1, 4]


def test_submit__cancelled_caller_costs_no_inference() -> None:
    gate = Gate()
    runtime = FakeRuntime(max_batch_size=1, fault=gate)

    async def use(batcher: Batcher) -> None:
        running = asyncio.ensure_future(submit(batcher, 0))
        await asyncio.to_thread(gate.entered.wait, 10)
        gone = asyncio.ensure_future(submit(batcher, 1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await running
        with pytest.raises(asyncio.CancelledError):
            await gone

    served(runtime, use)
    assert runtime.batch_sizes == [1]


def test_submit__failing_engine_fails_the_batch_and_not_the_next() -> None:
    def poison(images: np.ndarray) -> None:
        if (images[:, 0, 0, 0] == 13).any():
            raise RuntimeError("poisoned")

    async def use(batcher: Batcher) -> None:
        with pytest.raises(InferenceFailed):
            await submit(batcher, 13)
        assert token_of(await submit(batcher, 14)) == 14

    served(FakeRuntime(fault=poison), use)


def hung(fault: Callable[[np.ndarray], None]) -> FakeRuntime:
    return FakeRuntime(max_batch_size=1, fault=fault)


def test_batcher__a_runtime_that_hangs_is_replaced() -> None:
    gate, opening = Gate(), threading.Event()

    def reopen() -> FakeRuntime:
        assert opening.wait(10)
        return FakeRuntime()

    async def use() -> None:
        recovery = Recovery(hang_s=0.05, reopen=reopen)
        batcher = Batcher(hung(gate), max_waiting=10, recovery=recovery)
        batcher.start()
        stuck = asyncio.ensure_future(submit(batcher, 1))
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = asyncio.ensure_future(submit(batcher, 2))
        with pytest.raises(ModelNotReady, match=r"no answer within 0\.05 s"):
            await stuck
        assert "being replaced" in (batcher.problem or "")
        with pytest.raises(ModelNotReady):
            await submit(batcher, 3)
        opening.set()
        assert token_of(await waiting) == 2
        assert batcher.problem is None
        assert token_of(await submit(batcher, 4)) == 4
        await batcher.stop()

    asyncio.run(use())
    gate.open.set()


def test_batcher__a_runtime_that_cannot_be_replaced_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.scheduler.supervised_runtime.REOPEN_AFTER_S", 0.001)
    gate = Gate()
    failures = iter([RuntimeError("no memory"), RuntimeError("no memory")])

    def reopen() -> FakeRuntime:
        for failure in failures:
            raise failure
        return FakeRuntime()

    async def use() -> None:
        recovery = Recovery(hang_s=0.05, reopen=reopen)
        batcher = Batcher(hung(gate), max_waiting=10, recovery=recovery)
        batcher.start()
        with pytest.raises(ModelNotReady):
            await submit(batcher, 1)
        while batcher.problem is not None:
            await asyncio.sleep(0.001)
        assert token_of(await submit(batcher, 2)) == 2
        await batcher.stop()

    asyncio.run(use())
    gate.open.set()


def test_batcher__without_another_runtime_what_waits_is_answered() -> None:
    gate = Gate()

    async def use() -> None:
        batcher = Batcher(hung(gate), max_waiting=10, recovery=Recovery(hang_s=0.05))
        batcher.start()
        answers = await asyncio.gather(
            *(submit(batcher, token) for token in (1, 2, 3)), return_exceptions=True
        )
        # The one that hung, and those that waited for it.
        assert [type(each) for each in answers] == [ModelNotReady, InferenceFailed, InferenceFailed]
        assert "restart the server" in (batcher.problem or "")
        await batcher.stop()

    asyncio.run(use())
    gate.open.set()


def test_batcher__runtime_that_answers_in_time_does_not_hang_for_a_late_loop() -> None:
    class Quick(FakeRuntime):
        def infer(self, images: np.ndarray) -> Outputs:
            time.sleep(0.02)
            return super().infer(images)

    async def use(batcher: Batcher) -> None:
        answer = asyncio.create_task(
            batcher.submit(picture(7), priority="normal", deadline_s=time.monotonic() + 10)
        )
        await asyncio.sleep(0.005)
        # The loop is busy with something else, past the time that a call may take.
        time.sleep(0.3)
        assert token_of(await answer) == 7
        assert batcher.problem is None

    async def run() -> None:
        batcher = Batcher(Quick(), max_waiting=10, recovery=Recovery(hang_s=0.1))
        batcher.start()
        await use(batcher)
        await batcher.stop()

    asyncio.run(run())


def test_batcher__another_runtime_may_take_less_at_once() -> None:
    gate, small = Gate(), FakeRuntime(max_batch_size=2)

    async def use() -> None:
        recovery = Recovery(hang_s=0.05, reopen=lambda: small)
        batcher = Batcher(
            FakeRuntime(max_batch_size=8, fault=gate), max_waiting=20, recovery=recovery
        )
        batcher.start()
        with pytest.raises(ModelNotReady):
            await submit(batcher, 0)
        while batcher.problem is not None:
            await asyncio.sleep(0.001)
        rows = await asyncio.gather(*(submit(batcher, token) for token in range(1, 9)))
        assert [token_of(row) for row in rows] == list(range(1, 9))
        await batcher.stop()

    asyncio.run(use())
    gate.open.set()
    assert max(small.batch_sizes) == 2


def test_submit__an_overdue_engine_is_no_free_one() -> None:
    gate = Gate()
    now_s = 0.0

    async def use() -> None:
        nonlocal now_s
        latency = EngineLatency(LatencyModel({1: 0.02}))
        runtime = FakeRuntime(max_batch_size=1, fault=gate)
        batcher = Batcher(runtime, max_waiting=10, latency=latency, clock=lambda: now_s)
        batcher.start()
        running = asyncio.ensure_future(
            batcher.submit(picture(1), priority="normal", deadline_s=1000.0)
        )
        await asyncio.to_thread(gate.entered.wait, 10)
        now_s = 2.0
        with pytest.raises(Overloaded):
            await batcher.submit(picture(2), priority="normal", deadline_s=3.0)
        gate.open.set()
        assert token_of(await running) == 1
        await batcher.stop()

    asyncio.run(use())


def test_stop__while_a_runtime_is_replaced_answers_what_waits() -> None:
    gate, never = Gate(), threading.Event()

    def reopen() -> FakeRuntime:
        never.wait(30)
        raise RuntimeError("stopped")

    async def use() -> None:
        recovery = Recovery(hang_s=0.05, reopen=reopen)
        batcher = Batcher(hung(gate), max_waiting=10, recovery=recovery)
        batcher.start()
        stuck = asyncio.ensure_future(submit(batcher, 1))
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = asyncio.ensure_future(submit(batcher, 2))
        with pytest.raises(ModelNotReady):
            await stuck
        await batcher.stop()
        with pytest.raises(ShuttingDown):
            await waiting

    asyncio.run(use())
    gate.open.set()
    never.set()


def test_stop__finishes_what_is_queued_and_refuses_what_comes() -> None:
    async def use() -> None:
        batcher = Batcher(FakeRuntime(max_batch_size=2), max_waiting=100)
        batcher.start()
        queued = [asyncio.ensure_future(submit(batcher, token)) for token in range(9)]
        await asyncio.sleep(0)
        await batcher.stop()
        assert [token_of(await row) for row in queued] == list(range(9))
        with pytest.raises(ShuttingDown):
            await submit(batcher, 1)

    asyncio.run(use())


def test_admit__what_cannot_be_in_time_is_refused_before_it_is_decoded() -> None:
    async def use() -> None:
        latency = EngineLatency(LatencyModel({1: 20.0}))
        batcher = Batcher(FakeRuntime(), max_waiting=10, latency=latency, clock=lambda: 0.0)
        batcher.start()
        decoded = False
        with (
            pytest.raises(DeadlineExceeded),
            batcher.admit(priority="normal", deadline_s=10.0),
        ):
            decoded = True
        assert not decoded
        assert batcher.num_waiting == 0
        await batcher.stop()

    asyncio.run(use())


def test_admit__a_picture_that_cannot_be_decoded_leaves_nothing_behind() -> None:
    async def use(batcher: Batcher) -> None:
        def fail() -> None:
            with batcher.admit(priority="normal", deadline_s=time.monotonic() + 10):
                assert batcher.num_waiting == 1
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert batcher.num_waiting == 0

    served(FakeRuntime(), use)


def test_admit__while_it_is_decoded_others_run_and_its_place_is_taken() -> None:
    async def use(batcher: Batcher) -> None:
        deadline_s = time.monotonic() + 10
        with batcher.admit(priority="normal", deadline_s=deadline_s) as admitted:
            assert token_of(await submit(batcher, 1)) == 1
            with (
                batcher.admit(priority="normal", deadline_s=deadline_s),
                pytest.raises(Overloaded),
            ):
                await submit(batcher, 2)
            assert token_of(await admitted.infer(picture(3))) == 3

    served(FakeRuntime(), use, max_waiting=2)


def test_stop__waits_for_what_was_admitted() -> None:
    async def use() -> None:
        batcher = Batcher(FakeRuntime(), max_waiting=10)
        batcher.start()
        deadline_s = time.monotonic() + 10
        with (
            batcher.admit(priority="normal", deadline_s=deadline_s) as first,
            batcher.admit(priority="normal", deadline_s=deadline_s),
        ):
            stopping = asyncio.ensure_future(batcher.stop())
            await asyncio.sleep(0)
            assert token_of(await first.infer(picture(1))) == 1
            assert not stopping.done()
        # The second went away without a picture.
        await asyncio.wait_for(stopping, 10)

    asyncio.run(use())


def test_submit__a_full_queue_makes_room_for_another_client() -> None:
    gate = Gate()

    async def use(batcher: Batcher) -> None:
        def ask(token: int, client: str) -> "asyncio.Future[InferenceRow]":
            request = batcher.submit(
                picture(token),
                priority="normal",
                deadline_s=time.monotonic() + 30,
                client=client,
            )
            return asyncio.ensure_future(request)

        running = ask(0, "greedy")
        await asyncio.to_thread(gate.entered.wait, 10)
        greedy = [ask(token, "greedy") for token in (1, 2)]
        await asyncio.sleep(0)
        modest = ask(3, "modest")
        with pytest.raises(Overloaded):
            await greedy[1]
        gate.open.set()
        rows = await asyncio.gather(running, greedy[0], modest)
        assert [token_of(row) for row in rows] == [0, 1, 3]

    served(FakeRuntime(max_batch_size=1, fault=gate), use, max_waiting=2)


def test_submit__scores_that_are_no_numbers_are_no_answer() -> None:
    class Broken(FakeRuntime):
        def infer(self, images: np.ndarray) -> Outputs:
            outputs = dict(super().infer(images))
            outputs["scores"][images[:, 0, 0, 0] == 13] = np.nan
            return outputs

    async def use(batcher: Batcher) -> None:
        answers = await asyncio.gather(
            *(submit(batcher, token) for token in (12, 13, 14)), return_exceptions=True
        )
        for token, answer in zip((12, 13, 14), answers, strict=True):
            assert_fits(answer, "poison" if token == 13 else "keep", token)

    served(Broken(), use)


def test_submit__rows_that_are_missing_are_nobody_elses() -> None:
    class Short(FakeRuntime):
        def infer(self, images: np.ndarray) -> Outputs:
            return {name: values[1:] for name, values in super().infer(images).items()}

    async def use(batcher: Batcher) -> None:
        with pytest.raises(InferenceFailed):
            await submit(batcher, 1)

    served(Short(), use)


def assert_fits(answer: InferenceRow | BaseException, fate: str, token: int) -> None:
    """The answer is one that a request of this fate may get."""
    if fate == "expire":
        assert isinstance(answer, DeadlineExceeded)
    elif fate == "poison":
        assert isinstance(answer, InferenceFailed)
    elif fate == "keep":
        assert isinstance(answer, InferenceRow)
        assert token_of(answer) == token


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["keep", "cancel", "expire", "poison"]), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_submit__nothing_is_lost_swapped_or_answered_twice(
    fates: list[str], max_batch_size: int, concurrency: int
) -> None:
    def poison(images: np.ndarray) -> None:
        if (images[:, 0, 0, 1] == 200).any():
            raise RuntimeError("poisoned")

    async def use(batcher: Batcher) -> None:
        requests: list[asyncio.Future[InferenceRow]] = []
        for token, fate in enumerate(fates):
            number = token + 200 * 256 if fate == "poison" else token
            timeout_s = -1.0 if fate == "expire" else 30.0
            requests.append(asyncio.ensure_future(submit(batcher, number, timeout_s)))
        await asyncio.sleep(0)
        for request, fate in zip(requests, fates, strict=True):
            if fate == "cancel":
                request.cancel()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        for token, (answer, fate) in enumerate(zip(answers, fates, strict=True)):
            assert_fits(answer, fate, token)

    runtime = FakeRuntime(max_batch_size=max_batch_size, concurrency=concurrency, fault=poison)
    served(runtime, use)
