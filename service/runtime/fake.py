"""A runtime without a network, for tests of what stands around one: ours and users' own.

It draws its detections from the picture itself (`service.runtime.fake_outputs`), so that an answer
given to the wrong request shows. It gives what models for boxes, masks and rotated boxes give, and
fails on demand. For load tests and tests of a client, start the server with it:

    RTMDET_RUNTIME=fake RTMDET_FAKE=call_ms=2,image_ms=1,detections=20,fail_every=100 rtmdet serve

The models are those of the repository, with their classes and input sizes; only their graphs are
not run. `service.runtime.fake_plan` lists what RTMDET_FAKE takes. In a program:

    runtime = FakeRuntime(max_batch_size=4, seconds_per_call=0.01)
    registry = ModelRegistry(ModelRepository(folder), lambda _: runtime, max_waiting=64)
    registry.open([])
    detector = Detector(registry, CallThreads(2, "worker"), limits)

and what it shall do wrong is a function of the batch: `FakeRuntime(fault=...)`. A poisonous picture
is a PNG of one colour, named by `fail_pixel`.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.manifest import GRAPH_OUTPUTS, TASK_OUTPUTS
from service.runtime.base import Outputs
from service.runtime.fake_outputs import ONE_BOX, FakeModel, fake_outputs
from service.runtime.fake_plan import FakePlan


class FakeRuntime:
    """Detects one box per picture, whose corner is written in the picture's first pixel.

    The first pixel (b, g, r) gives x = b, y = g and the box's side r + 1; the score is 0.9, the
    class 0; `model` has more in store. `seconds_per_call` and `seconds_per_image` are slept;
    `fault`, called with the batch before the answer, may raise or block.
    """

    description = "fake"

    def __init__(
        self,
        *,
        max_batch_size: int = 8,
        concurrency: int = 1,
        seconds_per_call: float = 0.0,
        seconds_per_image: float = 0.0,
        fault: Callable[[NDArray[np.uint8]], None] | None = None,
        model: FakeModel = ONE_BOX,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.concurrency = concurrency
        self.reason = "no network is run"
        self.output_names = tuple(
            name for name in GRAPH_OUTPUTS if name in TASK_OUTPUTS[model.task]
        )
        self.batch_sizes: list[int] = []
        self._seconds_per_call = seconds_per_call
        self._seconds_per_image = seconds_per_image
        self.fault = fault
        self._model = model
        self._lock = threading.Lock()

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8 BGR [n, h, w, 3] -> the outputs of a model for the task, first axis n."""
        with self._lock:
            self.batch_sizes.append(len(images))
        if self.fault is not None:
            self.fault(images)
        time.sleep(self._seconds_per_call + self._seconds_per_image * len(images))
        return fake_outputs(images, self._model)

    def close(self) -> None:
        """Nothing is held."""


class PlannedFakeRuntime(FakeRuntime):
    """A fake runtime that behaves as a plan says; what RTMDET_FAKE is for."""

    def __init__(self, plan: FakePlan, model: FakeModel = ONE_BOX, *, reason: str = "") -> None:
        super().__init__(
            max_batch_size=plan.max_batch,
            concurrency=plan.concurrency,
            seconds_per_call=plan.call_ms / 1000,
            seconds_per_image=plan.image_ms / 1000,
            model=model,
        )
        self.reason = reason or self.reason
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._num_calls = 0
        self._closed = threading.Event()

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """As `FakeRuntime.infer`; raises RuntimeError, hangs or gives nonsense by the plan."""
        if not images.any():
            # Black are those of the warm-up and of readiness: they are no requests.
            return super().infer(images)
        with self._lock:
            self._num_calls += 1
            number, drawn = self._num_calls, self._random.random()
        self._fail(images, number)
        outputs = dict(super().infer(images))
        plan = self._plan
        time.sleep(plan.jitter * drawn * (plan.call_ms + plan.image_ms * len(images)) / 1000)
        if _falls_on(number, plan.nan_every):
            _fill_with_nan(outputs)
        if _falls_on(number, plan.misshape_every):
            outputs = {name: values[:-1] for name, values in outputs.items()}
        return outputs

    def close(self) -> None:
        """Let calls end that hang."""
        self._closed.set()

    def _fail(self, images: NDArray[np.uint8], number: int) -> None:
        """Raise or hang, where it is this call's turn."""
        plan = self._plan
        if _falls_on(number, plan.hang_every):
            self._closed.wait()
            raise RuntimeError(f"call {number} hung, as planned, and the runtime was closed")
        if _falls_on(number, plan.fail_every):
            raise RuntimeError(f"call {number} fails, as planned")
        if plan.fail_pixel is not None and (images[:, 0, 0] == plan.fail_pixel).all(axis=1).any():
            raise RuntimeError("a picture's first pixel has the colour that fails, as planned")


def _falls_on(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0


def _fill_with_nan(outputs: dict[str, NDArray[Any]]) -> None:
    for name in ("boxes", "scores"):
        outputs[name] = np.full_like(outputs[name], np.nan)
