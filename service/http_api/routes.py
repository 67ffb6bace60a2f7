"""The endpoints: each parses, calls the detector, presents."""

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict
from importlib.resources import files
from typing import Literal

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response

from service.codecs.drawing import draw_detections, encode_picture
from service.codecs.images import FORMAT_NAMES, MAX_SIDE
from service.detection import DetectionResult, DetectOptions, Timings
from service.detector import Detector, Picture
from service.errors import ServiceError
from service.http_api import openapi
from service.http_api.access import caller_of
from service.http_api.negotiation import JPEG, JSON, choose_media_type
from service.http_api.options import parse_options
from service.http_api.problems import all_problems
from service.http_api.request_ids import request_id
from service.http_api.schemas import detection_json
from service.http_api.uploads import UploadBudget, parse_upload, read_body
from service.registry import ModelStatus
from service.telemetry import CONTENT_TYPE

router = APIRouter()


def _detector(request: Request) -> Detector:
    return request.app.state.detector


@router.post("/detect", **openapi.DETECT)
async def detect(request: Request) -> Response:
    """Detect objects in one picture.

    The picture comes as the raw body, as the part `image` of a form, or as JSON with base64.
    Options stand in the query, in form fields or in the JSON, under the same names everywhere.
    With `Accept: image/jpeg` or `image/png` the answer is the picture with the detections drawn.
    """
    detector = _detector(request)
    media_type = choose_media_type(request.headers.get("accept"))
    uploads: UploadBudget = request.app.state.uploads
    with uploads.share() as take:
        limits = detector.limits
        body = await read_body(request, limits.image.max_bytes, limits.default_timeout_s, take)
        content_type = request.headers.get("content-type", "")
        upload = await asyncio.to_thread(parse_upload, content_type, body)
        options = parse_options([*request.query_params.multi_items(), *upload.options])
        answer = _Answer(media_type, options, request_id.get())
        request.state.model = detector.registry.resolve(options.model).source.name
        # The encoded picture is all that is needed from here on.
        del body
        work = detector.detect(upload.image, options, answer, client=_client(request))
        content = await _unless_gone(request, work)
    return Response(content, media_type=media_type, headers={"Server-Timing": answer.server_timing})


def _client(request: Request) -> str:
    """Who asks, for a fair share: the name of the key, else where the connection comes from."""
    return caller_of(request).identity


async def _unless_gone(request: Request, work: Coroutine[None, None, bytes]) -> bytes:
    """Await `work`, or cancel it when the client goes away: nobody would read the answer."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        working.cancel()
        leaving.cancel()


class _Answer:
    """Presents a result in the media type that the client asked for."""

    def __init__(self, media_type: str, options: DetectOptions, identity: str) -> None:
        self._media_type = media_type
        self._options = options
        self._identity = identity
        #: Where the time went, once there is an answer (W3C Server Timing; in milliseconds).
        self.server_timing = ""

    def __call__(self, result: DetectionResult, picture: Picture) -> bytes:
        self.server_timing = _server_timing(result.timings)
        if self._media_type == JSON:
            return detection_json(result, self._identity, self._options.mask_format)
        drawn = draw_detections(picture().pixels_bgr, result.detections)
        picture_format: Literal["jpeg", "png"] = "jpeg" if self._media_type == JPEG else "png"
        return encode_picture(drawn, picture_format)


def _server_timing(timings: Timings) -> str:
    parts = asdict(timings).items()
    return ", ".join(f"{name.removesuffix('_s')};dur={1000 * s:.3f}" for name, s in parts)


@router.get("/limits", **openapi.LIMITS)
async def limits(request: Request) -> Response:
    """What a request may be, so that a client need not find out by being refused."""
    allowed = _detector(request).limits
    body = {
        "max_image_bytes": allowed.image.max_bytes,
        "max_image_pixels": allowed.image.max_pixels,
        "max_image_side": MAX_SIDE,
        "max_requests_under_way": allowed.max_in_flight,
        "max_timeout_ms": round(allowed.default_timeout_s * 1000),
        "image_formats": FORMAT_NAMES,
    }
    return Response(to_json(body), media_type=JSON)


@router.get("/models", **openapi.MODELS)
async def models(request: Request) -> Response:
    """The models that answer, which of them by default, and those that could not be loaded."""
    registry = _detector(request).registry
    listed = [_model(status, registry.default_name) for status in registry.statuses]
    return Response(to_json({"models": listed}), media_type=JSON)


def _model(status: ModelStatus, default_name: str | None) -> dict[str, object]:
    members: dict[str, object] = {"name": status.name, "state": status.state}
    if status.problem is not None:
        members["problem"] = status.problem
    if status.served is None:
        return members
    manifest = status.served.source.manifest
    height, width = manifest.input_size
    return members | {
        "default": status.name == default_name,
        "task": manifest.task,
        "variant": manifest.variant,
        "version": str(status.served.source.version),
        "classes": manifest.classes,
        "input_size": {"width": width, "height": height},
        "thresholds": manifest.thresholds.model_dump(),
        "metrics": manifest.metrics,
        "evaluations": [each.model_dump() for each in manifest.evaluations],
        "runtime": status.served.runtime_description,
    }


@router.head("/livez", include_in_schema=False)
@router.get("/livez", **openapi.LIVEZ)
async def livez() -> Response:
    """Whether the process answers at all."""
    return Response(to_json({"status": "alive"}), media_type=JSON)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", **openapi.READYZ)
async def readyz(request: Request) -> Response:
    """Whether pictures can be sent: 200, or 503 with what is missing.

    One model that answers is enough for 200; the body has the state of each.
    """
    registry = _detector(request).registry
    states = {status.name: status.state for status in registry.statuses}
    ready = registry.is_ready
    body = {"status": "ready" if ready else "not ready", "models": states}
    return Response(to_json(body), 200 if ready else 503, media_type=JSON)


@router.get("/metrics", **openapi.METRICS)
async def metrics(request: Request) -> Response:
    """What is counted and measured, for Prometheus."""
    return Response(_detector(request).metrics_now(), media_type=CONTENT_TYPE)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """A page to try the service on, with everything that it needs inside."""
    page = files("service.http_api").joinpath("docs.html").read_bytes()
    return Response(page, media_type="text/html")


@router.get("/", include_in_schema=False)
async def root() -> Response:
    """A browser that is sent to the server finds the page."""
    return RedirectResponse("/docs")


@router.get("/problems/{code}", **openapi.PROBLEM)
async def problem(code: str) -> Response:
    """What a problem's `type` means."""
    kinds = all_problems()
    kind = kinds.get(code)
    if kind is None:
        body: dict[str, object] = {"codes": sorted(kinds)}
        return Response(to_json(body), 404, media_type=JSON)
    body = {"code": kind.code, "title": kind.title, "meaning": _meaning(kind)}
    return Response(to_json(body), media_type=JSON)


def _meaning(kind: type[ServiceError]) -> str:
    return (kind.__doc__ or "").strip()
