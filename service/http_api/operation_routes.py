"""The endpoints for whoever runs a server: how it is, what it takes, what it counts."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import RedirectResponse, Response

from service.codecs.images import FORMAT_NAMES, MAX_SIDE
from service.errors import ServiceError
from service.http_api import openapi
from service.http_api.asked import detector_of, max_batch_bytes
from service.http_api.docs_page import docs_page
from service.http_api.draining import Draining
from service.http_api.negotiation import JSON
from service.http_api.problems import MEDIA_TYPE, all_problems, plain_problem, problem_code
from service.http_api.request_record import record_of
from service.request_context import request_id
from service.telemetry import CONTENT_TYPE

router = APIRouter()


@router.get("/limits", **openapi.LIMITS)
async def limits(request: Request) -> Response:
    """What a request may be, so that a client need not find out by being refused."""
    allowed = detector_of(request).limits
    body = {
        "max_image_bytes": allowed.image.max_bytes,
        "max_image_pixels": allowed.image.max_pixels,
        "max_image_side": MAX_SIDE,
        "max_images_per_request": allowed.max_images_per_request,
        "max_batch_bytes": max_batch_bytes(request),
        "max_images_under_way": allowed.max_in_flight,
        "max_timeout_ms": round(allowed.default_timeout_s * 1000),
        "image_formats": FORMAT_NAMES,
    }
    return Response(to_json(body), media_type=JSON)


@router.head("/livez", include_in_schema=False)
@router.get("/livez", **openapi.LIVEZ)
async def livez() -> Response:
    """Whether the process answers at all."""
    return Response(to_json({"status": "alive"}), media_type=JSON)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", **openapi.READYZ)
async def readyz(request: Request) -> Response:
    """Whether pictures can be sent: 200, or 503 with what is missing.

    Asks each model for a real inference, unless one was answered within the last seconds. One
    model that answers is enough for 200; the body has the state of each, and why some do not. A
    server that is draining still answers requests, and wants no more of them.
    """
    registry = detector_of(request).registry
    draining: Draining = request.app.state.draining
    if draining.begun:
        return Response(to_json({"status": "draining"}), 503, media_type=JSON)
    problems = await registry.problems()
    states: dict[str, str] = {}
    for status in registry.statuses:
        silent = status.state == "ready" and problems.get(status.name) is not None
        states[status.name] = "not answering" if silent else status.state
        if status.problem is not None:
            problems[status.name] = status.problem
    ready = "ready" in states.values()
    body: dict[str, object] = {"status": "ready" if ready else "not ready", "models": states}
    if found := {name: problem for name, problem in problems.items() if problem is not None}:
        body["problems"] = found
    return Response(to_json(body), 200 if ready else 503, media_type=JSON)


@router.get("/metrics", **openapi.METRICS)
async def metrics(request: Request) -> Response:
    """What is counted and measured, for Prometheus."""
    return Response(detector_of(request).metrics_now(), media_type=CONTENT_TYPE)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """A page to try the service on, with everything that it needs inside."""
    page = docs_page()
    return Response(page.content, media_type="text/html", headers=page.headers)


@router.get("/", include_in_schema=False)
async def root() -> Response:
    """A browser that is sent to the server finds the page."""
    return RedirectResponse("/docs")


@router.get("/problems/{code}", **openapi.PROBLEM)
async def problem(request: Request, code: str) -> Response:
    """What a problem's `type` means."""
    kinds = all_problems()
    kind = kinds.get(code)
    if kind is None:
        record_of(request).problem = problem_code(HTTPStatus.NOT_FOUND.phrase)
        return Response(
            plain_problem(
                404,
                HTTPStatus.NOT_FOUND.phrase,
                f"No problem has this code; there are: {', '.join(sorted(kinds))}.",
                instance=request.url.path,
                request_id=request_id.get(),
            ),
            404,
            media_type=MEDIA_TYPE,
        )
    body = {"code": kind.code, "title": kind.title, "meaning": _meaning(kind)}
    return Response(to_json(body), media_type=JSON)


def _meaning(kind: type[ServiceError]) -> str:
    return (kind.__doc__ or "").strip()
