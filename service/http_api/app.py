"""Puts the HTTP interface together around a detector."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.access.gate import Gate
from service.detector import Detector
from service.errors import ServiceError
from service.http_api import model_routes, operation_routes, routes
from service.http_api.access import AccessControl
from service.http_api.draining import Draining
from service.http_api.openapi import drop_unused_refusals
from service.http_api.openapi_access import declare_access
from service.http_api.reception import (
    DirectRoute,
    LastResort,
    Observers,
    Reception,
    nobody_listens,
    refused,
    refused_plainly,
)
from service.http_api.request_record import record_of
from service.http_api.route_needs import V1_PREFIX
from service.http_api.upload_budget import UploadBudget
from service.telemetry import NO_MODEL
from service.version import VERSION


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
    app.state.uploads = UploadBudget(
        max_buffered_bytes, lambda: detector.metrics.shed(NO_MODEL, "uploads")
    )
    for part in (routes, model_routes, operation_routes):
        app.include_router(part.router)
        app.include_router(part.router, prefix=V1_PREFIX, include_in_schema=False)
    app.state.gate = gate
    app.state.body_timeout_s = body_timeout_s
    app.state.draining = draining or Draining()
    app.reception = Reception(
        app.through_framework,
        _direct_routes(),
        AccessControl(gate),
        Observers(detector.metrics, detector.tracing, access_log),
    )
    app.add_middleware(LastResort)
    app.add_exception_handler(ServiceError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_plainly)
    app.add_exception_handler(ClientDisconnect, _nobody_listens)
    return app


def _direct_routes() -> dict[tuple[str, str], DirectRoute]:
    """Endpoints that have nothing to be solved for them, by method and path."""
    return {
        (method, prefix + route.path): DirectRoute(route.path, route.endpoint)
        for route in routes.router.routes
        if isinstance(route, routes.PlainRoute)
        for method in route.methods or ()
        for prefix in ("", V1_PREFIX)
    }


class _Application(FastAPI):
    reception: Reception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        scope["app"] = self
        await self.reception(scope, receive, send)

    async def through_framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it by the framework's own way."""
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with what each route asks for."""
        if self.openapi_schema is None:
            document = super().openapi()
            drop_unused_refusals(document)
            declare_access(document)
        return super().openapi()


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return refused(record_of(request), error)


async def _refuse_plainly(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refused_plainly(record_of(request), error.status_code, error.headers)


async def _nobody_listens(request: Request, error: Exception) -> Response:
    return nobody_listens(record_of(request))
