"""Puts the HTTP interface together around a detector."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.gate import Gate
from service.detector import Detector
from service.errors import ServiceError
from service.http_api import model_routes, operation_routes, routes
from service.http_api.access import AccessControl
from service.http_api.access_log import AccessLog
from service.http_api.draining import Draining
from service.http_api.openapi import drop_unused_refusals
from service.http_api.openapi_access import declare_access
from service.http_api.problems import (
    MEDIA_TYPE,
    plain_problem,
    plain_response,
    problem_code,
    problem_response,
)
from service.http_api.request_ids import RequestIds
from service.http_api.request_metrics import RequestMetrics
from service.http_api.request_spans import RequestSpans
from service.http_api.route_needs import V1_PREFIX
from service.http_api.uploads import UploadBudget
from service.request_context import request_id
from service.version import VERSION

logger = logging.getLogger(__name__)

_OUR_FAULT = "Internal Server Error"


def create_app(
    detector: Detector,
    *,
    max_buffered_bytes: int,
    access_log: bool = True,
    gate: Gate | None = None,
    body_timeout_s: float = 30.0,
    draining: Draining | None = None,
) -> FastAPI:
    """The application; it starts and stops `detector` with itself.

    `max_buffered_bytes` of request bodies may be in memory at once, and each has `body_timeout_s`
    to arrive; `access_log` writes a line for every request. `gate` says who may ask for what;
    without one everybody may ask for everything. Whoever ends the server says so by `draining`.
    """
    gate = gate or Gate()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        detector.start()
        yield
        await detector.stop()
        await asyncio.to_thread(detector.tracing.stop)

    app = _Application(
        title="RTMDet Serving",
        version=VERSION,
        description="Boxes, instance masks and rotated boxes from a photograph.",
        lifespan=lifespan,
        # FastAPI's own pages load their scripts from another host; `/docs` is ours.
        docs_url=None,
        redoc_url=None,
    )
    app.state.detector = detector
    app.state.uploads = UploadBudget(max_buffered_bytes)
    for part in (routes, model_routes, operation_routes):
        app.include_router(part.router)
        app.include_router(part.router, prefix=V1_PREFIX, include_in_schema=False)
    app.state.gate = gate
    app.state.body_timeout_s = body_timeout_s
    app.state.draining = draining or Draining()
    # The last one added is the outermost.
    app.add_middleware(AccessControl, gate=gate)
    app.add_middleware(LastResort)
    app.add_middleware(RequestMetrics, metrics=detector.metrics)
    if access_log:
        app.add_middleware(AccessLog)
    if detector.tracing.is_on:
        app.add_middleware(RequestSpans, tracing=detector.tracing)
    app.add_middleware(RequestIds)
    app.add_exception_handler(ServiceError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_plainly)
    app.add_exception_handler(ClientDisconnect, _nobody_listens)
    return app


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with what each route asks for."""
        if self.openapi_schema is None:
            document = super().openapi()
            drop_unused_refusals(document)
            declare_access(document)
        return super().openapi()


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    request.state.problem = error.code
    return problem_response(error, instance=request.url.path, request_id=request_id.get())


async def _refuse_plainly(request: Request, error: Exception) -> Response:
    """No such path, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    request.state.problem = problem_code(HTTPStatus(error.status_code).phrase)
    return plain_response(
        error.status_code,
        method=request.method,
        path=request.url.path,
        request_id=request_id.get(),
        headers=error.headers,
    )


async def _nobody_listens(request: Request, error: Exception) -> Response:
    """The client went away: an everyday thing that needs no answer and no log."""
    request.state.client_gone = True
    return Response(status_code=400)


class LastResort:
    """ASGI middleware that answers a bug of ours: the client learns the id to report, no more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception:
            logger.exception("request %s failed", request_id.get())
            if scope["type"] != "http" or started:
                raise
            scope.setdefault("state", {})["problem"] = problem_code(_OUR_FAULT)
            await _our_fault(scope["path"])(scope, receive, send)


def _our_fault(path: str) -> Response:
    content = plain_problem(
        500,
        _OUR_FAULT,
        "this is a fault of the server; its log has the cause under the request's id",
        instance=path,
        request_id=request_id.get(),
    )
    return Response(content, 500, None, MEDIA_TYPE)
