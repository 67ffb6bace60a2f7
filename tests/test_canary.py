import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from service import canary
from service.canary import Canary
from service.runtime.base import Outputs
from service.runtime.fake import FakeRuntime
from service.scheduler.batcher import Batcher
from service.scheduler.supervised_runtime import Recovery


def asked(runtime: FakeRuntime, use: Callable[[Canary, Batcher], Awaitable[None]]) -> None:
    async def run() -> None:
        batcher = Batcher(runtime, max_waiting=4, recovery=Recovery(hang_s=5.0))
        batcher.start()
        await use(Canary(batcher, (32, 32)), batcher)
        await batcher.stop()

    asyncio.run(run())


def test_problem__none_after_a_real_inference_that_askers_share() -> None:
    runtime = FakeRuntime()

    async def use(canary: Canary, _: Batcher) -> None:
        assert await asyncio.gather(*(canary.problem() for _ in range(5))) == [None] * 5
        assert await canary.problem() is None

    asked(runtime, use)
    assert runtime.batch_sizes == [1], "an inference of a moment ago says enough"


def test_problem__a_request_that_was_answered_says_enough() -> None:
    runtime = FakeRuntime()

    async def use(canary: Canary, batcher: Batcher) -> None:
        loop = asyncio.get_running_loop()
        image = np.zeros((32, 32, 3), np.uint8)
        await batcher.submit(image, priority="low", deadline_s=loop.time() + 10)
        assert await canary.problem() is None

    asked(runtime, use)
    assert runtime.batch_sizes == [1]


def test_problem__asks_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "FRESH_S", 0.0)
    runtime = FakeRuntime()

    async def use(canary: Canary, _: Batcher) -> None:
        assert await canary.problem() is None
        assert await canary.problem() is None

    asked(runtime, use)
    assert runtime.batch_sizes == [1, 1]


def test_problem__no_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "_PATIENCE_S", 0.05)
    let_go = threading.Event()

    async def use(canary: Canary, _: Batcher) -> None:
        assert "no inference within 0.05 s" in str(await canary.problem())
        let_go.set()

    asked(FakeRuntime(fault=lambda _: let_go.wait(10)), use)


def test_problem__values_that_are_no_numbers() -> None:
    class Broken(FakeRuntime):
        def infer(self, images: np.ndarray) -> Outputs:
            return {**super().infer(images), "scores": np.full((len(images), 1), np.nan)}

    async def use(canary: Canary, _: Batcher) -> None:
        assert "failed on this picture" in str(await canary.problem())

    asked(Broken(), use)


def test_problem__a_runtime_that_fails() -> None:
    def fault(_: np.ndarray) -> None:
        raise RuntimeError("no memory")

    async def use(canary: Canary, _: Batcher) -> None:
        assert "failed" in str(await canary.problem())

    asked(FakeRuntime(fault=fault), use)
