"""ASGI middleware that opens a span for every request, by OpenTelemetry's names for HTTP."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http_api.access_log import is_probe
from service.http_api.request_metrics import CLIENT_GONE
from service.request_context import request_id
from service.tracing.base import RequestSpan, Tracing, Value


class RequestSpans:
    """Spans of requests, the children of what their `traceparent` names. Probes have none."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or is_probe(scope["path"]):
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {
            name.decode("latin-1"): each.decode("latin-1") for name, each in scope["headers"]
        }
        with self._tracing.request(scope["method"], headers, _asked(scope)) as span:
            try:
                await self._app(scope, receive, send_noting)
            finally:
                _note_answer(span, scope, status)


def _asked(scope: Scope) -> dict[str, Value]:
    client = scope.get("client")
    attributes: dict[str, Value] = {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "rtmdet.request.id": request_id.get(),
    }
    return attributes | ({"client.address": client[0]} if client else {})


def _note_answer(span: RequestSpan, scope: Scope, status: int) -> None:
    state = scope.get("state", {})
    if state.get("client_gone"):
        status = int(CLIENT_GONE)
    span.set("http.response.status_code", status)
    if route := getattr(scope.get("route"), "path", None):
        span.rename(f"{scope['method']} {route}")
        span.set("http.route", route)
    for name, key in (("rtmdet.model.name", "model"), ("rtmdet.problem", "problem")):
        if value := state.get(key):
            span.set(name, value)
    # By the conventions a mistake of the client is no error of the server's span.
    if status >= 500:
        span.fail(state.get("problem") or str(status))
