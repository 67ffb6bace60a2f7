"""What is counted and measured, in one registry that `GET /metrics` gives out.

Names and labels are frozen by a test: dashboards and alarms hang on them. Values are in seconds,
bytes and pixels. A label has few values: routes are templates, models are those that are served.
"""

import threading
from collections import Counter as TallyOf
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.detection import DetectionResult, Timings

#: Why a request was turned away, or given up later; the last of these is no model's matter.
ShedReason = Literal["queue-full", "late-on-arrival", "hopeless", "expired", "under-way", "uploads"]

#: Why a batch has so many pictures and no more: as many as one call takes; all that waited for an
#: engine that was free; more would have made a member late; the server ends.
DispatchReason = Literal["full", "idle", "deadline", "drain"]

Instrument = TypeVar("Instrument", Counter, Histogram)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Stands for the model where a request did not get as far as to have one.
NO_MODEL = ""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PIXELS = (1e4, 1e5, 3e5, 1e6, 2e6, 4e6, 8e6, 16e6, 32e6, 64e6)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SHARES = tuple(tenth / 10 for tenth in range(1, 11))


@dataclass(frozen=True)
class Described:
    """A metric as documents list it; `name` is what Prometheus shows."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str


class Metrics:
    """The instruments of one server. Safe to be used from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[Described] = []
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = self._counter(
            "rtmdet_requests",
            "Requests by the status of their answer; 499: the client did not wait for it.",
            ("protocol", "route", "model", "code"),
        )
        self._request_seconds = self._histogram(
            "rtmdet_request_duration_seconds",
            "From the head of a request to the end of its answer, refusals too.",
            ("protocol", "route", "model"),
            _SECONDS,
        )
        self._inflight = self._gauge(
            "rtmdet_inflight", "Requests under way, probes and scrapes too.", ("protocol",)
        )
        self._stage_seconds = self._histogram(
            "rtmdet_stage_duration_seconds",
            "Parts of an answered detection: decode (with the wait for a thread and for memory), "
            "queue, infer, postprocess.",
            ("model", "stage"),
            _SECONDS,
        )
        self._image_pixels = self._histogram(
            "rtmdet_image_pixels", "Pixels of each picture that was answered.", ("model",), _PIXELS
        )
        self._detections = self._counter(
            "rtmdet_detections", "Objects that were found.", ("model", "class")
        )
        self._scores = _Scores("rtmdet_score", "Scores of what was found.", _SHARES)
        self.registry.register(self._scores)
        self.described.append(self._scores.described)
        self._queue_depth = self._gauge(
            "rtmdet_queue_depth",
            "Places taken in a model's queue, of pictures that are being decoded too.",
            ("model",),
        )
        self._oldest_wait = self._gauge(
            "rtmdet_queue_oldest_wait_seconds",
            "How long the one has been in the queue that is there longest; 0 if it is empty.",
            ("model",),
        )
        self._queue_wait = self._histogram(
            "rtmdet_queue_wait_seconds",
            "How long decoded pictures waited for the engine.",
            ("model",),
            _SECONDS,
        )
        self._batch_size = self._histogram(
            "rtmdet_batch_size", "Pictures in a batch; with OpenVINO always 1.", ("model",), _SIZES
        )
        self._batch_fill = self._histogram(
            "rtmdet_batch_fill_ratio",
            "Pictures in a batch, as a share of the most that one may have.",
            ("model",),
            _SHARES,
        )
        self._batch_seconds = self._histogram(
            "rtmdet_batch_duration_seconds", "What a batch took the runtime.", ("model",), _SECONDS
        )
        self._left_waiting = self._histogram(
            "rtmdet_batch_queued_at_release",
            "Pictures that were left waiting when a batch ran.",
            ("model",),
            (0, *_SIZES, 128, 256),
        )
        self._dispatches = self._counter(
            "rtmdet_batch_dispatch",
            "Batches, by why they were no larger: full, idle, deadline, drain.",
            ("model", "reason"),
        )
        self._shed = self._counter(
            "rtmdet_requests_shed",
            "Pictures that a queue refused (queue-full, late-on-arrival) or gave up (hopeless, "
            "expired), and requests refused for what is under way (under-way) or in memory "
            "(uploads, without a model).",
            ("model", "reason"),
        )
        self._cancelled = self._counter(
            "rtmdet_requests_cancelled", "Requests whose client went away.", ("protocol",)
        )
        self._failures = self._counter(
            "rtmdet_inference_failures",
            "Pictures on which the runtime raised an error, or gave no numbers.",
            ("model",),
        )
        self._backend_up = self._gauge(
            "rtmdet_backend_up",
            "1 while the model's runtime answers, 0 while it is replaced.",
            ("model",),
        )
        self._model_info = self._gauge(
            "rtmdet_model_info",
            "1 for each model that is served, with what it is.",
            ("model", "version", "task", "variant", "runtime"),
        )

    def exposition(self) -> bytes:
        """All values, in Prometheus' text format."""
        return generate_latest(self.registry)

    # -- requests

    def request_began(self, protocol: str) -> None:
        """A request came."""
        self._inflight.labels(protocol).inc()

    def request_ended(
        self, protocol: str, route: str, model: str, code: str, seconds: float
    ) -> None:
        """A request was answered."""
        self._inflight.labels(protocol).dec()
        self._requests.labels(protocol, route, model, code).inc()
        self._request_seconds.labels(protocol, route, model).observe(seconds)

    def request_cancelled(self, protocol: str) -> None:
        """A client went away before its answer; `request_ended` follows."""
        self._cancelled.labels(protocol).inc()

    def detected(self, result: DetectionResult) -> None:
        """A picture went through all stages."""
        model, timings = result.model.name, result.timings
        for stage, seconds in _stages(timings):
            self._stage_seconds.labels(model, stage).observe(seconds)
        self._image_pixels.labels(model).observe(result.width * result.height)
        # There may be hundreds in a picture: one by one they took longer than finding them.
        for label, number in TallyOf(found.label for found in result.detections).items():
            self._detections.labels(model, label).inc(number)
        self._scores.observe(model, [found.score for found in result.detections])

    # -- batches

    def queue_is(self, model: str, depth: int, oldest_wait_s: float) -> None:
        """How much waits for a model now."""
        self._queue_depth.labels(model).set(depth)
        self._oldest_wait.labels(model).set(oldest_wait_s)

    def batch_ran(
        self,
        model: str,
        waits_s: Sequence[float],
        *,
        most: int,
        left_waiting: int,
        reason: DispatchReason,
    ) -> None:
        """A batch began, whose pictures had waited so long; a batch has at most `most`."""
        self._dispatches.labels(model, reason).inc()
        self._batch_size.labels(model).observe(len(waits_s))
        self._batch_fill.labels(model).observe(len(waits_s) / most)
        self._left_waiting.labels(model).observe(left_waiting)
        for seconds in waits_s:
            self._queue_wait.labels(model).observe(seconds)

    def batch_ended(self, model: str, seconds: float) -> None:
        """A batch was answered by the runtime."""
        self._batch_seconds.labels(model).observe(seconds)

    def shed(self, model: str, reason: ShedReason) -> None:
        """A request was refused or given up."""
        self._shed.labels(model, reason).inc()

    def inference_failed(self, model: str) -> None:
        """The runtime failed on a picture."""
        self._failures.labels(model).inc()

    # -- models

    def model_served(
        self, model: str, *, version: str, task: str, variant: str, runtime: str
    ) -> None:
        """A model was loaded."""
        self._model_info.labels(model, version, task, variant, runtime).set(1)
        # There from the start: an alarm on an increase does not see a counter come into being.
        self._failures.labels(model)
        for reason in get_args(ShedReason):
            self._shed.labels(NO_MODEL if reason == "uploads" else model, reason)
        self.backend_is(model, up=True)

    def model_gone(self, model: str) -> None:
        """A model is not served any more; what was counted of it stays."""
        for gauge in (self._model_info, self._backend_up, self._queue_depth, self._oldest_wait):
            gauge.remove_by_labels({"model": model})

    def backend_is(self, model: str, *, up: bool) -> None:
        """Whether a model's runtime answers."""
        self._backend_up.labels(model).set(up)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> "_Remembered[Counter]":
        self.described.append(Described(f"{name}_total", "counter", labels, text))
        return _Remembered(Counter(name, text, labels, registry=self.registry))

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        self.described.append(Described(name, "gauge", labels, text))
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: Sequence[float]
    ) -> "_Remembered[Histogram]":
        self.described.append(Described(name, "histogram", labels, text))
        return _Remembered(Histogram(name, text, labels, buckets=buckets, registry=self.registry))


class _Remembered(Generic[Instrument]):
    """An instrument that is asked for the same labels over and over; none of them is removed."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._children: dict[tuple[str, ...], Instrument] = {}

    def labels(self, *values: str) -> Instrument:
        """That of these labels. The library takes ten times as long, a dozen times a request."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._instrument.labels(*values)
        return child


class _Scores(Collector):
    """A histogram by model whose values come many at a time."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.described = Described(name, "histogram", ("model",), text)
        self._bounds = np.array(bounds)
        self._lock = threading.Lock()
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, model: str, values: Sequence[float]) -> None:
        """Count values of a model."""
        places = self._bounds.searchsorted(values)
        counts = np.bincount(places, minlength=len(self._bounds) + 1)
        with self._lock:
            self._counts[model] = self._counts.get(model, 0) + counts
            self._sums[model] = self._sums.get(model, 0.0) + sum(values)

    def describe(self) -> Iterator[Metric]:
        """Its name, for the registry."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """What was counted; Prometheus wants of each bound how many are not above it."""
        family = self._family()
        names = [*map(str, self._bounds.tolist()), "+Inf"]
        with self._lock:
            for model, counts in self._counts.items():
                buckets = list(zip(names, counts.cumsum().tolist(), strict=True))
                family.add_metric([model], buckets, self._sums[model])
        yield family

    def _family(self) -> HistogramMetricFamily:
        described = self.described
        return HistogramMetricFamily(described.name, described.text, labels=described.labels)


def _stages(timings: Timings) -> Sequence[tuple[str, float]]:
    return (
        ("decode", timings.decode_s),
        ("queue", timings.queue_s),
        ("infer", timings.infer_s),
        ("postprocess", timings.postprocess_s),
    )
