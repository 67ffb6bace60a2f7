"""A span for every request, by OpenTelemetry's names for HTTP."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from service.http_api.access_log import is_probe
from service.http_api.request_record import RequestRecord
from service.tracing.base import RequestSpan, Tracing, Value


@contextmanager
def request_span(
    tracing: Tracing, record: RequestRecord, headers: Iterable[tuple[bytes, bytes]], scheme: str
) -> Generator[None]:
    """A span around a request, the child of what its `traceparent` names; a probe has none."""
    if is_probe(record.path):
        yield
        return
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    with tracing.request(record.method, named, _asked(record, scheme)) as span:
        try:
            yield
        finally:
            _note_answer(span, record)


def _asked(record: RequestRecord, scheme: str) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        "http.request.method": record.method,
        "url.path": record.path,
        "url.scheme": scheme,
        "rtmdet.request.id": record.request_id,
    }
    return attributes | ({"client.address": record.address} if record.address else {})


def _note_answer(span: RequestSpan, record: RequestRecord) -> None:
    span.set("http.response.status_code", record.code)
    if record.route:
        span.rename(f"{record.method} {record.route}")
        span.set("http.route", record.route)
    if record.model:
        span.set("rtmdet.model.name", record.model)
    if record.problem:
        span.set("rtmdet.problem", record.problem)
    # By the conventions a mistake of the client is no error of the server's span.
    if record.code >= 500:
        span.fail(record.problem or str(record.code))
