"""A real server around the fake runtime, for tests of what it tells about itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np

from model.repository import ModelRepository
from service.codecs.images import ImageLimits
from service.detector import Detector, DetectorLimits
from service.http_api.app import create_app
from service.registry import ModelRegistry
from service.runtime.fake import FakeRuntime
from service.scheduler.call_threads import CallThreads
from service.tracing.base import NO_TRACING, Tracing
from tests.repositories import write_model
from tests.servers import running_server

SIDE = 64
PNG = {"Content-Type": "image/png"}


def picture() -> bytes:
    return cv2.imencode(".png", np.zeros((SIDE, SIDE, 3), np.uint8))[1].tobytes()


def fake_detector(
    folder: Path, runtime: FakeRuntime | None = None, tracing: Tracing = NO_TRACING
) -> Detector:
    """A detector with one model, `boxes`."""
    write_model(folder, "boxes", input_size=(SIDE, SIDE))
    chosen = runtime or FakeRuntime(max_batch_size=4)
    # Its faults concern requests, not the warm-up.
    fault, chosen.fault = chosen.fault, None
    registry = ModelRegistry(ModelRepository(folder), lambda _: chosen, max_waiting=8)
    registry.open([])
    chosen.fault = fault
    limits = DetectorLimits(ImageLimits(10**6, 10**6), 16, 10.0)
    return Detector(registry, CallThreads(2, "worker"), limits, tracing)


@contextmanager
def fake_serving(
    folder: Path,
    runtime: FakeRuntime | None = None,
    *,
    tracing: Tracing = NO_TRACING,
    access_log: bool = True,
) -> Iterator[httpx.Client]:
    """A client of a server with one model, `boxes`."""
    detector = fake_detector(folder, runtime, tracing)
    app = create_app(detector, max_buffered_bytes=10**8, access_log=access_log)
    with running_server(app) as client:
        yield client
