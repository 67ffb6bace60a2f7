"""Spans of requests: whose children they are, what they say, where they go."""

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.errors import UndecodableImage
from service.request_context import span_ids
from service.runtime.fake import FakeRuntime
from service.settings import Settings, SettingsError
from service.tracing.base import NO_TRACING
from service.tracing.otlp import OpenTelemetryTracing, open_tracing
from service.wiring import choose_tracing
from tests.conftest import PROJECT
from tests.fake_serving import PNG, SIDE, fake_serving, picture
from tests.log_lines import logged
from tests.otlp_receiver import otlp_receiver
from tests.repositories import write_model

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}


class Traced:
    """A server whose spans stay in memory, and a client of it."""

    def __init__(self, client: httpx.Client, exporter: InMemorySpanExporter) -> None:
        self.client = client
        self._exporter = exporter

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


class Ending(InMemorySpanExporter):
    """Tells when the span of a request has ended, which is after its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.request_ended = threading.Event()

    def export(self, spans):
        result = super().export(spans)
        if any(span.kind is SpanKind.SERVER for span in spans):
            self.request_ended.set()
        return result


@contextmanager
def traced_serving(folder: Path, runtime: FakeRuntime | None = None) -> Iterator[Traced]:
    exporter = Ending()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with fake_serving(folder, runtime, tracing=OpenTelemetryTracing(provider)) as client:
        yield Traced(client, exporter)


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    with traced_serving(tmp_path) as serving:
        yield serving


def ended(serving: Traced) -> dict[str, ReadableSpan]:
    """The spans, once the request's own is among them."""
    exporter = serving._exporter
    assert isinstance(exporter, Ending)
    assert exporter.request_ended.wait(10)
    return serving.spans()


def trace_id(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


# -- what is recorded


def test_spans__are_children_of_the_request_which_is_the_callers(traced: Traced) -> None:
    assert traced.client.post("/detect", content=picture(), headers=PNG | SAMPLED).is_success
    spans = ended(traced)
    assert set(spans) == {"POST /detect", "decode", "queue", "infer", "postprocess"}
    request = spans.pop("POST /detect")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == CALLER
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert trace_id(span) == TRACE


def test_spans__follow_one_another(traced: Traced) -> None:
    traced.client.post("/detect", content=picture(), headers=PNG)
    spans = ended(traced)
    stages = [spans[name] for name in ("decode", "queue", "infer", "postprocess")]
    times = [time for span in stages for time in (span.start_time, span.end_time)]
    # Seconds as floats are exact to less than a microsecond.
    assert all(a - 1000 <= b for a, b in itertools.pairwise(times)), times
    request = spans["POST /detect"]
    assert request.start_time <= times[0]
    assert times[-1] <= request.end_time


def test_spans__say_what_happened(traced: Traced) -> None:
    answer = traced.client.post("/detect", content=picture(), headers=PNG)
    spans = ended(traced)
    assert dict(spans["POST /detect"].attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/detect",
        "url.path": "/detect",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "rtmdet.request.id": answer.headers["X-Request-ID"],
        "rtmdet.model.name": "boxes",
    }
    assert dict(spans["decode"].attributes) == {
        "rtmdet.image.bytes": len(picture()),
        "rtmdet.image.width": SIDE,
        "rtmdet.image.height": SIDE,
    }
    assert dict(spans["queue"].attributes) == {"rtmdet.priority": "normal"}
    assert dict(spans["infer"].attributes) == {
        "rtmdet.model.name": "boxes",
        "rtmdet.model.version": "1",
        "rtmdet.batch.size": 1,
        "rtmdet.batch.reason": "idle",
    }
    assert dict(spans["postprocess"].attributes) == {"rtmdet.detections": 1}


def test_spans__of_a_refused_picture(traced: Traced) -> None:
    answer = traced.client.post("/detect", content=b"junk", headers=PNG)
    spans = ended(traced)
    assert answer.json()["code"] == UndecodableImage.code
    assert set(spans) == {"POST /detect", "decode"}
    assert spans["decode"].attributes["error.type"] == UndecodableImage.code
    request = spans["POST /detect"]
    assert request.attributes["rtmdet.problem"] == UndecodableImage.code
    # A mistake of the client is none of the server's.
    assert request.status.status_code is StatusCode.UNSET


def test_spans__of_an_inference_that_failed(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("engine says no")

    with traced_serving(tmp_path, FakeRuntime(fault=fail)) as serving:
        serving.client.post("/detect", content=picture(), headers=PNG)
        spans = ended(serving)
    assert set(spans) == {"POST /detect", "decode", "queue"}
    for name in ("POST /detect", "queue"):
        assert spans[name].attributes["error.type"] == "inference-failed"
        assert spans[name].status.status_code is StatusCode.ERROR


def test_spans__none_of_probes(traced: Traced) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        traced.client.get(path)
    traced.client.get("/limits")
    assert set(ended(traced)) == {"GET /limits"}


def test_spans__unknown_path_is_no_name(traced: Traced) -> None:
    traced.client.get("/nowhere")
    assert set(ended(traced)) == {"GET"}


def test_spans__caller_decides_whether_to_sample(traced: Traced) -> None:
    traced.client.post("/detect", content=picture(), headers=PNG | NOT_SAMPLED)
    traced.client.get("/limits")
    assert set(ended(traced)) == {"GET /limits"}


def test_log_lines__name_the_span(traced: Traced) -> None:
    with logged() as lines:
        traced.client.post("/detect", content=picture(), headers=PNG | SAMPLED)
        (line,) = lines.of("service.access", 1)
    assert line["trace_id"] == TRACE
    assert line["span_id"] == f"{ended(traced)['POST /detect'].context.span_id:016x}"


def test_stage__is_current_within_its_block_alone() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = OpenTelemetryTracing(provider)

    async def on_a_thread() -> str | None:
        with tracing.stage("outer"):
            ids = await asyncio.to_thread(span_ids.get)
        return ids and ids.span_id

    span_id = asyncio.run(on_a_thread())
    (outer,) = exporter.get_finished_spans()
    assert span_id == f"{outer.context.span_id:016x}"
    assert span_ids.get() is None


# -- where it goes


def test_open_tracing__sends_to_the_standard_variables_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        tracing = open_tracing()
        with tracing.request("GET", SAMPLED, {}), tracing.stage("decode"):
            pass
        tracing.stop()
    assert receiver.paths == ["/v1/traces"]
    spans = receiver.spans()
    assert spans["decode"].parent_span_id == spans["GET"].span_id
    assert spans["decode"].trace_id.hex() == TRACE
    assert receiver.resource()["service.name"] == "rtmdet-serving"


def test_open_tracing__standard_variables_name_and_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-detector")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        tracing = open_tracing()
        for name, headers in (("own", {}), ("asked", SAMPLED)):
            with tracing.request(name, headers, {}):
                pass
        tracing.stop()
    assert set(receiver.spans()) == {"asked"}
    assert receiver.resource()["service.name"] == "shop-detector"


def test_stop__does_not_wait_for_a_receiver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as receiver:
        receiver.proceed.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        tracing = open_tracing()
        with tracing.request("GET", {}, {}):
            pass
        tracing.stop()
        # It was asked, and has not answered.
        assert receiver.asked.wait(10)
        assert not receiver.proceed.is_set()


def test_open_tracing__receiver_that_hangs_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as receiver:
        receiver.proceed.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
        tracing = open_tracing()
        for _ in range(50):
            with tracing.request("GET", {}, {}):
                pass
        assert receiver.asked.wait(10)
        assert not receiver.proceed.is_set()
        receiver.proceed.set()
        tracing.stop()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")],
)
def test_choose_tracing__what_is_not_served_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}='{value}'"):
        choose_tracing(Settings(tracing="otlp"))


def test_choose_tracing__off_by_default_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert choose_tracing(Settings()) is NO_TRACING


def test_serve__without_the_packages_tracing_is_one_clear_line(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    script = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "import rtmdet\n"
        "sys.argv = ['rtmdet', 'serve', '--port', '0']\n"
        "rtmdet.main()\n"
    )
    settings = {"RTMDET_MODEL_REPOSITORY": str(tmp_path), "RTMDET_TRACING": "otlp"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=os.environ | settings | {"RTMDET_RUNTIME": "fake"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("rtmdet: RTMDET_TRACING=otlp needs the otel extra")


def test_serve__that_does_not_trace_imports_no_sdk() -> None:
    script = (
        "import sys, service.__main__, service.http_api.app\n"
        "from service.settings import Settings\n"
        "from service.wiring import choose_tracing\n"
        "choose_tracing(Settings())\n"
        "sys.exit('opentelemetry.sdk' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True)
