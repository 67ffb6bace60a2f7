"""Puts the HTTP interface together around a detector."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.detector import Detector
from service.errors import ServiceError
from service.http_api.problems import MEDIA_TYPE, plain_problem, problem_response
from service.http_api.request_ids import RequestIds, request_id
from service.http_api.routes import router
from service.version import VERSION

logger = logging.getLogger(__name__)


def create_app(detector: Detector) -> FastAPI:
    """The application; it starts and stops `detector` with itself."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        detector.start()
        yield
        await detector.stop()

    app = FastAPI(
        title="RTMDet Serving",
        version=VERSION,
        description="Boxes, instance masks and rotated boxes from a photograph.",
        lifespan=lifespan,
        # FastAPI's own pages load their scripts from another host; `/docs` is ours.
        docs_url=None,
        redoc_url=None,
    )
    app.state.detector = detector
    app.include_router(router)
    app.include_router(router, prefix="/v1", include_in_schema=False)
    app.add_middleware(RequestIds)
    app.add_exception_handler(ServiceError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_plainly)
    app.add_exception_handler(Exception, _fail)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(error, instance=request.url.path, request_id=request_id.get())


async def _refuse_plainly(request: Request, error: Exception) -> Response:
    """No such path, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {title.lower()}; see /docs"
    content = plain_problem(
        error.status_code, title, detail, instance=request.url.path, request_id=request_id.get()
    )
    return Response(content, error.status_code, error.headers, MEDIA_TYPE)


async def _fail(request: Request, error: Exception) -> Response:
    """A bug of ours: the client learns no more than the id to report."""
    logger.error("request %s failed", request_id.get(), exc_info=error)
    content = plain_problem(
        500,
        "Internal Server Error",
        "this is a fault of the server; its log has the cause under the request's id",
        instance=request.url.path,
        request_id=request_id.get(),
    )
    return Response(content, 500, None, MEDIA_TYPE)
