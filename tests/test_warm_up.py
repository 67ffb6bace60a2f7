import numpy as np
import pytest

from service.runtime.base import Outputs
from service.runtime.fake import FakeRuntime
from service.scheduler.warm_up import warm_up


class Timed(FakeRuntime):
    """Moves a clock by 1 s and 0.5 s a picture; its first call of a size by 100 s."""

    def __init__(self, max_batch_size: int, concurrency: int = 1) -> None:
        super().__init__(max_batch_size=max_batch_size, concurrency=concurrency)
        self.now_s = 0.0

    def infer(self, images: np.ndarray) -> Outputs:
        is_first = len(images) not in self.batch_sizes
        self.now_s += 100.0 if is_first else 1.0 + 0.5 * len(images)
        return super().infer(images)


def test_warm_up__runs_every_size_and_knows_what_it_takes() -> None:
    runtime = Timed(max_batch_size=6)
    latency = warm_up(runtime, (32, 48), clock=lambda: runtime.now_s)
    assert set(runtime.batch_sizes) == {1, 2, 4, 6}
    assert [latency.alone.mean_s(size) for size in (1, 2, 3, 6)] == [1.5, 2.0, 2.5, 4.0]
    assert not latency.beside.is_known


def test_warm_up__runs_calls_beside_each_other_where_there_are_several() -> None:
    runtime = FakeRuntime(max_batch_size=2, concurrency=3, seconds_per_call=0.001)
    latency = warm_up(runtime, (32, 32))
    assert latency.alone.is_known
    assert latency.beside.is_known


def test_warm_up__a_runtime_that_fails_is_no_runtime() -> None:
    def fault(_: np.ndarray) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        warm_up(FakeRuntime(fault=fault), (32, 32))
