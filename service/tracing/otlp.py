"""Traces by OpenTelemetry, sent over OTLP/HTTP as its standard variables (`OTEL_*`) say.

The one module that knows OpenTelemetry, and only a server that traces imports it. Its provider is
this server's own, never the process's: nothing else that is instrumented reports through it.
"""

import asyncio
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from service.errors import ServiceError
from service.request_context import SpanIds, span_ids
from service.tracing.base import RequestSpan, Span, Value
from service.version import VERSION

#: How long the end of the server waits for what is not yet sent.
_STOP_WITHIN_S = 3.0

_NANOSECONDS = 1_000_000_000


class UnusableTracing(ValueError):
    """A standard variable that asks for what is not served; the message names it."""


def open_tracing() -> "OpenTelemetryTracing":
    """Tracing that sends to `OTEL_EXPORTER_OTLP_ENDPOINT`, by default this machine's port 4318.

    Raises UnusableTracing.
    """
    _require("OTEL_TRACES_EXPORTER", ("otlp", "none"))
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        _require(name, ("http/protobuf",))
    # Not by the interpreter's end, which would wait for an exporter that hangs.
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetryTracing(provider)


def _require(variable: str, allowed: tuple[str, ...]) -> None:
    if (value := os.environ.get(variable)) and value not in allowed:
        raise UnusableTracing(f"{variable}={value!r}: this server can {' or '.join(allowed)}")


def _resource() -> Resource:
    resource = Resource.create({SERVICE_VERSION: VERSION})
    # The standard variables have named it, or nobody has.
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "rtmdet-serving"}))
    return resource


class OpenTelemetryTracing:
    """Records to `provider`, which `stop` shuts down."""

    is_on = True

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("rtmdet", VERSION)

    @contextmanager
    def request(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, Value]
    ) -> Generator[RequestSpan]:
        """A span of kind `server`, the child of what `traceparent` names, if anything."""
        parent = propagate.extract(headers)
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=dict(attributes)
        )
        with _under_way(_OpenSpan(span), parent) as ours:
            yield ours

    @contextmanager
    def stage(self, name: str, *, began_s: float | None = None) -> Generator[Span]:
        """A child of the span under way."""
        began_ns = None if began_s is None else int(began_s * _NANOSECONDS)
        span = self._tracer.start_span(name, start_time=began_ns)
        with _under_way(_OpenSpan(span), None) as ours:
            yield ours

    def stop(self) -> None:
        """Send what is recorded; what cannot be sent in time is lost."""
        # Of a daemon thread, which may be left in the middle of a call that hangs.
        stopping = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        stopping.start()
        stopping.join(_STOP_WITHIN_S)


class _OpenSpan:
    """A span until it ends."""

    def __init__(self, span: trace.Span) -> None:
        self.span = span
        self._end_ns: int | None = None

    def set(self, name: str, value: Value) -> None:
        self.span.set_attribute(name, value)

    def lasted(self, seconds: float) -> None:
        began_ns = getattr(self.span, "start_time", None)
        if began_ns is not None:
            self._end_ns = began_ns + int(seconds * _NANOSECONDS)

    def rename(self, name: str) -> None:
        self.span.update_name(name)

    def fail(self, kind: str) -> None:
        self.set("error.type", kind)
        self.span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        self.span.end(self._end_ns)


@contextmanager
def _under_way(ours: _OpenSpan, parent: Context | None) -> Generator[_OpenSpan]:
    """Make a span the current one, for stages within it and for log lines, and end it."""
    identity = ours.span.get_span_context()
    ids = SpanIds(trace.format_trace_id(identity.trace_id), trace.format_span_id(identity.span_id))
    otel_token = context.attach(trace.set_span_in_context(ours.span, parent))
    ids_token = span_ids.set(ids)
    try:
        yield ours
    except BaseException as error:
        ours.fail(_kind_of(error))
        raise
    finally:
        span_ids.reset(ids_token)
        context.detach(otel_token)
        ours.end()


def _kind_of(error: BaseException) -> str:
    if isinstance(error, ServiceError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__qualname__
