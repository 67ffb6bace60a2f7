"""Where every request comes in: it gets an id, is let through or refused, answered and told of.

The endpoints that take pictures are called from here, past the layers of the web framework: under
load a refusal must cost next to nothing, and the layers cost more than all of ours.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.http_api.access import AccessControl
from service.http_api.access_log import log_answered
from service.http_api.problems import (
    MEDIA_TYPE,
    plain_problem,
    plain_response,
    problem_code,
    problem_response,
)
from service.http_api.request_ids import HEADER
from service.http_api.request_record import RequestRecord, open_record, record_of
from service.http_api.request_spans import request_span
from service.http_api.route_needs import NOWHERE
from service.request_context import request_id
from service.telemetry import Metrics
from service.tracing.base import Tracing

logger = logging.getLogger(__name__)

_PROTOCOL = "http"

#: Paths that are no route of ours; there may be any number of them.
_OTHER_ROUTE = "other"

_OUR_FAULT = "Internal Server Error"

_NO_SPAN = nullcontext()

_ID_HEADER = HEADER.lower().encode()


@dataclass(frozen=True)
class DirectRoute:
    """An endpoint that takes the request itself, and the path of its route."""

    path: str
    endpoint: Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Observers:
    """Who is told of every request."""

    metrics: Metrics
    tracing: Tracing
    access_log: bool


class Reception:
    """Serves what comes for `app`.

    `direct` are endpoints by method and path that are called at once; everything else goes
    through `app`.
    """

    def __init__(
        self,
        app: ASGIApp,
        direct: Mapping[tuple[str, str], DirectRoute],
        access: AccessControl,
        observers: Observers,
    ) -> None:
        self._app = app
        self._direct = direct
        self._access = access
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] == "http":
            await self._observed(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._web_socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _observed(self, scope: Scope, receive: Receive, send: Send) -> None:
        record, metrics = open_record(scope), self._observers.metrics
        token = request_id.set(record.request_id)
        metrics.request_began(_PROTOCOL)
        try:
            with self._span(scope, record):
                try:
                    await self._serve(scope, receive, send, record)
                finally:
                    if self._observers.access_log:
                        log_answered(record)
        finally:
            if record.client_gone:
                metrics.request_cancelled(_PROTOCOL)
            route, code = record.route or _OTHER_ROUTE, str(record.code)
            metrics.request_ended(_PROTOCOL, route, record.model, code, record.duration_s)
            request_id.reset(token)

    def _span(self, scope: Scope, record: RequestRecord) -> AbstractContextManager[None]:
        tracing = self._observers.tracing
        if not tracing.is_on:
            return _NO_SPAN
        return request_span(tracing, record, scope["headers"], scope["scheme"])

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        is_counted = False

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.has_begun, record.status = True, message["status"]
                identity = record.request_id.encode("latin-1")
                remains = self._what_remains(record) if is_counted else ()
                message["headers"] = [*message["headers"], (_ID_HEADER, identity), *remains]
            else:
                record.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            rule = self._access.rule(scope)
            record.route = None if rule.path == _OTHER_ROUTE else rule.path
            caller = record.caller = self._access.admit(scope, rule, record.address)
            if rule.is_rate_limited:
                is_counted = True
                self._access.charge(caller)
            if rule is NOWHERE:
                # Answered here, so that nothing outside the table is reached without `admin`.
                response = _not_found(record)
            elif direct := self._direct.get((record.method, record.path)):
                record.route = direct.path
                response = await direct.endpoint(Request(scope, receive, send_noting))
            else:
                await self._through_app(scope, receive, send_noting, record)
                return
        except ServiceError as error:
            response = refused(record, error)
            # With it go the frames that it left, and the picture that one of them holds.
            error.__traceback__ = None
        except ClientDisconnect:
            response = nobody_listens(record)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            if record.has_begun:
                raise
            response = _our_fault(record)
        await response(scope, receive, send_noting)

    def _what_remains(self, record: RequestRecord) -> list[tuple[bytes, bytes]]:
        # Who was not let through was not counted.
        return [] if record.caller is None else self._access.what_remains(record.caller)

    async def _through_app(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            record.route = getattr(scope.get("route"), "path", record.route)

    async def _web_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        rule = self._access.rule(scope)
        client: tuple[str, int] | None = scope.get("client")
        try:
            self._access.admit(scope, rule, client[0] if client is not None else "")
        except ServiceError as error:
            refusal = problem_response(error, instance=scope["path"], request_id=request_id.get())
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


class LastResort:
    """The same for bugs behind the framework, whose own layer would answer them in its own way.

    ASGI middleware, to stand within that layer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        try:
            await self._app(scope, receive, send)
        except Exception:
            if scope["type"] != "http" or (record := record_of(Request(scope))).has_begun:
                raise
            logger.exception("request %s failed", record.request_id)
            await _our_fault(record)(scope, receive, send)


def refused(record: RequestRecord, error: ServiceError) -> Response:
    """The answer to a request that cannot be served."""
    record.problem = error.code
    return problem_response(error, instance=record.path, request_id=record.request_id)


def refused_plainly(
    record: RequestRecord, status: int, headers: Mapping[str, str] | None = None
) -> Response:
    """No such path, or a method that it does not have."""
    record.problem = problem_code(HTTPStatus(status).phrase)
    return plain_response(
        status,
        method=record.method,
        path=record.path,
        request_id=record.request_id,
        headers=headers,
    )


def nobody_listens(record: RequestRecord) -> Response:
    """The client went away: an everyday thing that needs no answer and no log."""
    record.client_gone = True
    return Response(status_code=400)


def _not_found(record: RequestRecord) -> Response:
    return refused_plainly(record, HTTPStatus.NOT_FOUND)


def _our_fault(record: RequestRecord) -> Response:
    """A bug of ours: the client learns the id to report, no more."""
    record.problem = problem_code(_OUR_FAULT)
    content = plain_problem(
        500,
        _OUR_FAULT,
        "this is a fault of the server; its log has the cause under the request's id",
        instance=record.path,
        request_id=record.request_id,
    )
    return Response(content, 500, None, MEDIA_TYPE)
