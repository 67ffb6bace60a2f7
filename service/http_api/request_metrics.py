"""ASGI middleware that counts and times every request."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry import NO_MODEL, Metrics

_PROTOCOL = "http"

#: Paths that are no route of ours; there may be any number of them.
_OTHER_ROUTE = "other"

#: What stands for the status of a request whose client did not wait for the answer.
CLIENT_GONE = "499"


class RequestMetrics:
    """Reports to `metrics`; routes leave what they know in the request's state.

    `state.model` is the model that answers, `state.client_gone` is set where nobody reads,
    `state.route` is the route of a request that was refused before it came there.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code = "500"

        async def send_noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = str(message["status"])
            await send(message)

        state: dict[str, object] = scope.setdefault("state", {})
        began_s = time.monotonic()
        self._metrics.request_began(_PROTOCOL)
        try:
            await self._app(scope, receive, send_noting)
        finally:
            if state.get("client_gone"):
                code = CLIENT_GONE
                self._metrics.request_cancelled(_PROTOCOL)
            refused_route = str(state.get("route", _OTHER_ROUTE))
            route = getattr(scope.get("route"), "path", refused_route)
            model = str(state.get("model", NO_MODEL))
            self._metrics.request_ended(_PROTOCOL, route, model, code, time.monotonic() - began_s)
