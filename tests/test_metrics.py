"""What `GET /metrics` tells, and by which names."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.repository import ModelRepository
from service.codecs.images import ImageLimits
from service.detection import Detection, DetectionResult, ModelIdentity, Timings
from service.detector import Detector, DetectorLimits
from service.http_api.app import create_app
from service.registry import ModelRegistry
from service.runtime.fake import FakeRuntime
from service.scheduler.call_threads import CallThreads
from service.telemetry import Metrics
from tests.repositories import write_model
from tests.servers import running_server

SIDE = 64

#: Dashboards and alarms hang on these. A change here is one that users must be told of.
NAMES = {
    "rtmdet_backend_up": ("model",),
    "rtmdet_batch_dispatch": ("model", "reason"),
    "rtmdet_batch_duration_seconds": ("model",),
    "rtmdet_batch_fill_ratio": ("model",),
    "rtmdet_batch_queued_at_release": ("model",),
    "rtmdet_batch_size": ("model",),
    "rtmdet_detections": ("model", "class"),
    "rtmdet_image_pixels": ("model",),
    "rtmdet_inference_failures": ("model",),
    "rtmdet_inflight": ("protocol",),
    "rtmdet_model_info": ("model", "version", "task", "variant", "runtime"),
    "rtmdet_queue_depth": ("model",),
    "rtmdet_queue_oldest_wait_seconds": ("model",),
    "rtmdet_queue_wait_seconds": ("model",),
    "rtmdet_request_duration_seconds": ("protocol", "route", "model"),
    "rtmdet_requests": ("protocol", "route", "model", "code"),
    "rtmdet_requests_cancelled": ("protocol",),
    "rtmdet_requests_shed": ("model", "reason"),
    "rtmdet_score": ("model",),
    "rtmdet_stage_duration_seconds": ("model", "stage"),
}


BOUNDS = [*(str(tenth / 10) for tenth in range(1, 11)), "+Inf"]


def test_metrics__names_and_labels_are_frozen() -> None:
    metrics = Metrics()
    described = {each.name.removesuffix("_total"): each.labels for each in metrics.described}
    assert described == NAMES
    families = {family.name for family in metrics.registry.collect()}
    assert {name for name in families if name.startswith("rtmdet_")} == set(NAMES)


def test_metrics__scores_are_in_the_bucket_whose_bound_they_do_not_exceed() -> None:
    metrics, scores = Metrics(), [0.05, 0.1, 0.11, 1.0]
    found = [Detection("a", 0, score, (0, 0, 1, 1), None, None) for score in scores]
    timings = Timings(0.0, 0.0, 0.0, 0.0, 0.0)
    for detections in (found, []):
        identity = ModelIdentity("boxes", "1", "detect")
        metrics.detected(DetectionResult(identity, 1, 1, detections, timings, 1))
    value = metrics.registry.get_sample_value
    counts = [value("rtmdet_score_bucket", {"model": "boxes", "le": le}) for le in BOUNDS]
    assert counts == [2, *[3] * 8, 4, 4]
    assert value("rtmdet_score_sum", {"model": "boxes"}) == pytest.approx(sum(scores))
    assert value("rtmdet_score_count", {"model": "boxes"}) == 4


class Served:
    """A server whose engine may be held, its client and its metrics."""

    def __init__(self, client: httpx.Client, runtime: FakeRuntime) -> None:
        self.client = client
        self.runtime = runtime

    def post(self, **options: str) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return self.client.post("/detect", params=options, content=picture(), headers=headers)

    def value(self, sample: str, **labels: str) -> float:
        """The one sample of that name with these labels; 0 where there is none."""
        text = self.client.get("/metrics").text
        found = [
            each.value
            for family in text_string_to_metric_families(text)
            for each in family.samples
            if each.name == sample and labels.items() <= each.labels.items()
        ]
        assert len(found) <= 1, f"{sample} has {len(found)} values for {labels}"
        return found[0] if found else 0.0


def picture() -> bytes:
    return cv2.imencode(".png", np.zeros((SIDE, SIDE, 3), np.uint8))[1].tobytes()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    write_model(tmp_path, "boxes", input_size=(SIDE, SIDE))
    runtime = FakeRuntime(max_batch_size=4)
    registry = ModelRegistry(ModelRepository(tmp_path), lambda _: runtime, max_waiting=2)
    registry.open([])
    limits = DetectorLimits(ImageLimits(10**6, 10**6), 16, 10.0)
    detector = Detector(registry, CallThreads(2, "worker"), limits)
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        yield Served(client, runtime)


def test_metrics__of_a_request_that_was_answered(served: Served) -> None:
    assert served.post().status_code == 200
    labels = {"protocol": "http", "route": "/detect", "model": "boxes"}
    assert served.value("rtmdet_requests_total", **labels, code="200") == 1
    assert served.value("rtmdet_request_duration_seconds_count", **labels) == 1
    for stage in ("decode", "queue", "infer", "postprocess"):
        name = "rtmdet_stage_duration_seconds_count"
        assert served.value(name, model="boxes", stage=stage) == 1
    assert served.value("rtmdet_image_pixels_sum", model="boxes") == SIDE * SIDE
    assert served.value("rtmdet_detections_total", model="boxes") == 1
    assert served.value("rtmdet_score_count", model="boxes") == 1
    assert served.value("rtmdet_batch_dispatch_total", model="boxes", reason="idle") == 1
    assert served.value("rtmdet_batch_size_sum", model="boxes") == 1
    assert served.value("rtmdet_batch_duration_seconds_count", model="boxes") == 1
    assert served.value("rtmdet_model_info", model="boxes", task="detect", runtime="fake") == 1
    assert served.value("rtmdet_backend_up", model="boxes") == 1
    # The question itself is under way.
    assert served.value("rtmdet_inflight", protocol="http") == 1


def test_metrics__labels_are_those_that_are_described(served: Served) -> None:
    served.post()
    for family in text_string_to_metric_families(served.client.get("/metrics").text):
        for sample in family.samples if family.name in NAMES else ():
            assert set(sample.labels) - {"le"} == set(NAMES[family.name])


def test_metrics__of_refused_requests(served: Served) -> None:
    served.post(model="none")
    served.post(score_threshold="7")
    served.client.get("/nowhere/1")
    served.client.get("/nowhere/2")
    total = "rtmdet_requests_total"
    assert served.value(total, route="/detect", model="", code="404") == 1
    assert served.value(total, route="/detect", model="", code="422") == 1
    assert served.value(total, route="other", code="404") == 2


def test_metrics__of_a_queue_that_is_full(served: Served) -> None:
    entered, proceed = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert proceed.wait(10)

    served.runtime.fault = hold
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(served.post)]
        assert entered.wait(10)
        running += [threads.submit(served.post) for _ in range(2)]
        while served.value("rtmdet_queue_depth", model="boxes") < 2:
            pass
        assert served.value("rtmdet_queue_oldest_wait_seconds", model="boxes") > 0
        assert served.post().status_code == 503
        assert served.value("rtmdet_requests_shed_total", reason="queue-full") == 1
        proceed.set()
        assert [each.result().status_code for each in running] == [200, 200, 200]
    assert served.value("rtmdet_batch_size_bucket", model="boxes", le="1.0") == 1
    assert served.value("rtmdet_batch_size_bucket", model="boxes", le="2.0") == 2


def test_metrics__of_a_client_that_went_away(served: Served) -> None:
    proceed, entered = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert proceed.wait(10)

    served.runtime.fault = hold
    data = picture()
    head = (
        "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode()
    address = (served.client.base_url.host, served.client.base_url.port)
    with contextlib.closing(socket.create_connection(address)) as connection:
        connection.sendall(head + data)
        assert entered.wait(10)
    while served.value("rtmdet_requests_cancelled_total", protocol="http") < 1:
        pass
    proceed.set()
    assert served.value("rtmdet_requests_total", code="499") == 1


def test_metrics__of_pictures_on_which_the_engine_fails(served: Served) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("engine says no")

    served.runtime.fault = fail
    assert served.post().status_code == 500
    assert served.value("rtmdet_inference_failures_total", model="boxes") == 1
    assert served.value("rtmdet_requests_total", code="500") == 1
