"""`rtmdet serve` with models that hang, as a program: `python -m tests.held_serving WHERE`.

WHERE is `loading`: the models never come; or `calls`: no call of a runtime ends before a line comes
on stdin, and each says `called` on stdout when it begins.
"""

import ctypes
import sys
import threading

from model.repository import ModelRepository
from service.codecs.images import ImageLimits
from service.commands import serve as serving
from service.detector import Detector, DetectorLimits
from service.registry import ModelRegistry
from service.runtime.fake import FakeRuntime
from service.scheduler.batcher import Batcher
from service.scheduler.call_threads import CallThreads
from service.settings import Settings
from service.tracing.base import Tracing


def load_for_ever(settings: Settings, tracing: Tracing) -> Detector:
    # Native code: no exception can be thrown into it.
    sys.stdout.write("loading\n")
    sys.stdout.flush()
    ctypes.CDLL(None).sleep(600)
    raise AssertionError("the test took too long")


def load_held(settings: Settings, tracing: Tracing) -> Detector:
    released = threading.Event()

    def wait_for_line() -> None:
        if sys.stdin.readline():
            released.set()

    def hold(_: object) -> None:
        sys.stdout.write("called\n")
        sys.stdout.flush()
        released.wait()

    threading.Thread(target=wait_for_line, daemon=True).start()
    runtime = FakeRuntime(max_batch_size=1, concurrency=8)
    registry = ModelRegistry(
        ModelRepository(settings.model_repository),
        lambda _: runtime,
        max_waiting=64,
        num_places=8,
    )
    registry.open(settings.models)
    # From here on: warming up is a call as well.
    runtime.fault = hold
    limits = DetectorLimits(ImageLimits(10**6, 10**6), 64, settings.request_timeout_ms / 1000)
    return Detector(registry, CallThreads(2, "worker"), limits, tracing)


if __name__ == "__main__":
    from service.__main__ import app

    serving.build_detector = {"loading": load_for_ever, "calls": load_held}[sys.argv[1]]
    app(["serve"])


def all_ready(batcher: Batcher) -> bool:
    """Whether everything that waits is decoded."""
    return all(each.is_ready for each in batcher._queue._waiting)
