"""Runs a runtime before it serves: buffers get allocated, and what batches take becomes known."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from service.runtime.base import Runtime
from service.runtime.batch_buckets import batch_buckets
from service.scheduler.latency import EngineLatency, LatencyModel

#: Calls of each size: the first one may allocate, and is not counted.
_NUM_CALLS = 2


def warm_up(
    runtime: Runtime,
    input_size: tuple[int, int],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> EngineLatency:
    """Run batches of every size that matters, alone and beside others, and say what they took.

    `input_size` is (height, width). Blocks; no other call may be running. Raises what the runtime
    raises.
    """
    alone: dict[int, float] = {}
    beside: dict[int, float] = {}
    with ThreadPoolExecutor(runtime.concurrency) as threads:
        for size in batch_buckets(runtime.max_batch_size):
            blank = np.zeros((size, *input_size, 3), np.uint8)

            def infer_s(images: np.ndarray = blank) -> float:
                began_s = clock()
                runtime.infer(images)
                return clock() - began_s

            alone[size] = min([infer_s() for _ in range(_NUM_CALLS)][1:])
            if runtime.concurrency > 1:
                calls = [threads.submit(infer_s) for _ in range(_NUM_CALLS * runtime.concurrency)]
                seconds = sorted(call.result() for call in calls)
                beside[size] = seconds[len(seconds) // 2]
    return EngineLatency(LatencyModel(alone), LatencyModel(beside))
