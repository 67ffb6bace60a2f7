"""Every request has an id: the client's own where it sent a usable one, else a new one."""

import random
import re
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.request_context import request_id

HEADER = "X-Request-ID"

_USABLE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestIds:
    """ASGI middleware that sets `request_id` and the answer's header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(HEADER.lower().encode(), b"").decode("latin-1")
        identity = sent if _USABLE.fullmatch(sent) else new_request_id()
        token = request_id.set(identity)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = identity
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


def new_request_id() -> str:
    """Sorts by time: milliseconds since 1970, then 80 random bits, in hexadecimal."""
    return f"req_{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"
