"""ASGI middleware that writes a log line for every request that was answered."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http_api.request_metrics import CLIENT_GONE
from service.logs import Event

logger = logging.getLogger("service.access")

#: Asked every few seconds by what watches the server: not worth a line each.
_PROBES = frozenset(
    f"{prefix}{path}" for prefix in ("", "/v1") for path in ("/livez", "/readyz", "/metrics")
)

#: A path is the client's, and may be thousands of characters long.
_LONGEST_PATH = 256


class AccessLog:
    """Logs at `info`, probes at `debug`. Routes leave what they know in the request's state:
    `model`, `problem` (the code of a refusal), `client_name` (whose key was sent), `client_gone`,
    `route` where a request was refused before it came to one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or not logger.isEnabledFor(level := _level(scope["path"])):
            await self._app(scope, receive, send)
            return
        status, bytes_in, bytes_out = 500, 0, 0

        async def receive_counting() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def send_counting(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
            bytes_out += len(message.get("body", b""))
            await send(message)

        began_s = time.monotonic()
        try:
            await self._app(scope, receive_counting, send_counting)
        finally:
            duration_ms = (time.monotonic() - began_s) * 1000
            if scope.get("state", {}).get("client_gone"):
                status = int(CLIENT_GONE)
            logger.log(level, _line(scope, status, duration_ms, bytes_in, bytes_out))


def is_probe(path: str) -> bool:
    """Whether what watches the server asks for this path."""
    return path in _PROBES


def _level(path: str) -> int:
    return logging.DEBUG if is_probe(path) else logging.INFO


def _line(scope: Scope, status: int, duration_ms: float, bytes_in: int, bytes_out: int) -> Event:
    method, path = scope["method"], scope["path"][:_LONGEST_PATH]
    state = scope.get("state", {})
    route = getattr(scope.get("route"), "path", state.get("route"))
    client = scope.get("client")
    fields: dict[str, object] = {
        "duration_ms": round(duration_ms, 3),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
    }
    if path != route:
        fields["path"] = path
    known = {
        "client": client and client[0],
        "key": state.get("client_name"),
        "model": state.get("model"),
        "problem": state.get("problem"),
    }
    fields |= {name: value for name, value in known.items() if value}
    route = route or "other"
    return Event(
        f"{method} {route} {status}",
        told={"method": method, "route": route, "status": status},
        fields=fields,
    )
