"""The endpoints for detection: each parses, calls the detector, presents."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message

from service.codecs.drawing import draw_detections, encode_picture
from service.detection import DetectionResult, DetectOptions, Timings
from service.errors import ServiceError, ServiceUnavailable
from service.http_api import openapi
from service.http_api.access import charge_images
from service.http_api.asked import client_of, detector_of, max_batch_bytes
from service.http_api.negotiation import JPEG, JSON, choose_media_type
from service.http_api.options import parse_options
from service.http_api.problems import problem_body
from service.http_api.request_bodies import BodyLimit, read_body
from service.http_api.request_record import record_of
from service.http_api.schemas import detection_json
from service.http_api.upload_budget import TakeBytes, UploadBudget
from service.http_api.uploads import is_raw, parse_upload
from service.model_options import postprocess_settings
from service.request_context import request_id
from service.scheduler.refusals import too_late
from service.stages import Picture


class PlainRoute(APIRoute):
    """A route whose endpoint takes the request itself: there is nothing to be solved for it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint."""
        return self.endpoint


router = APIRouter(route_class=PlainRoute)

Content = TypeVar("Content")

#: A body that is taken apart on the event loop: so few bytes take less time there than the way to
#: another thread and back.
_INLINE_BYTES = 128 * 1024

#: What is in somebody's picture is nothing for a cache.
_NOT_KEPT = {"Cache-Control": "no-store"}


@router.post("/detect", **openapi.DETECT)
async def detect(request: Request) -> Response:
    """Detect objects in one picture.

    The picture comes as the raw body, as the part `image` of a form, or as JSON with base64.
    Options stand in the query, in form fields or in the JSON, under the same names everywhere.
    With `Accept: image/jpeg` or `image/png` the answer is the picture with the detections drawn.
    """
    detector = detector_of(request)
    media_type = choose_media_type(request.headers.get("accept"))
    with _budget(request).share(client_of(request)) as take:
        limit = BodyLimit("max_image_bytes", detector.limits.image.max_bytes)
        (image,), options = await _read(request, take, limit)
        allowed_s = detector.limits.allowed_s(options)
        answer = _Answer(media_type, options, request_id.get(), allowed_s)
        work = detector.detect(
            image, options, answer, client=client_of(request), draws=media_type != JSON
        )
        content = await _unless_gone(request, work)
    headers = _NOT_KEPT | {"Server-Timing": answer.server_timing}
    return Response(content, media_type=media_type, headers=headers)


@router.post("/detect:batch", **openapi.DETECT_BATCH)
async def detect_batch(request: Request) -> Response:
    """Detect objects in several pictures.

    They come as parts `images` of a form, or as JSON; options are those of `/detect`, the same for
    all. Each picture is queued on its own. The answer has a result for each, in their order: what
    `/detect` would say, or `{"problem": ...}` for one that failed alone.
    """
    detector = detector_of(request)
    choose_media_type(request.headers.get("accept"), offered=(JSON,))
    with _budget(request).share(client_of(request)) as take:
        max_images = detector.limits.max_images_per_request
        limit = BodyLimit("max_batch_bytes", max_batch_bytes(request))
        images, options = await _read(request, take, limit, max_images)
        # What is wrong with the options is wrong for all.
        postprocess_settings(detector.registry.resolve(options.model).source, options)
        charge_images(request, len(images))
        identity, client = request_id.get(), client_of(request)
        allowed_s = detector.limits.allowed_s(options)
        work = [
            detector.detect(
                image,
                options,
                _Answer(JSON, options, f"{identity}:{index}", allowed_s),
                client=client,
            )
            for index, image in enumerate(images)
        ]
        answers = await _unless_gone(request, _all(work))
    results = [_result(answer, request, f"{identity}:{i}") for i, answer in enumerate(answers)]
    content = b'{"id":%b,"results":[%b]}' % (to_json(identity), b",".join(results))
    return Response(content, media_type=JSON, headers=_NOT_KEPT)


def _budget(request: Request) -> UploadBudget:
    return request.app.state.uploads


async def _read(
    request: Request, take: TakeBytes, limit: BodyLimit, max_images: int = 1
) -> tuple[tuple[bytes, ...], DetectOptions]:
    """The pictures and the options of a request."""
    detector = detector_of(request)
    body = await read_body(request, limit, request.app.state.body_timeout_s, take)
    content_type = request.headers.get("content-type", "")
    if is_raw(content_type) or len(body) <= _INLINE_BYTES:
        upload = parse_upload(content_type, body, max_images)
    else:
        upload = await asyncio.to_thread(parse_upload, content_type, body, max_images)
    options = parse_options([*request.query_params.multi_items(), *upload.options])
    record_of(request).model = detector.registry.resolve(options.model).source.name
    return upload.images, options


async def _all(work: Sequence[Coroutine[None, None, bytes]]) -> list[bytes | ServiceError]:
    """Every answer, or why there is none. Raises what leaves no picture with an answer."""
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            if not isinstance(answer, ServiceError):
                raise answer
            # The frames that it left keep the pictures.
            answer.__traceback__ = None
    if all(isinstance(answer, ServiceUnavailable) for answer in answers):
        # The same request has a chance later; a status says so to every client.
        raise answers[0]  # pyright: ignore[reportGeneralTypeIssues] - it is an exception
    return answers  # pyright: ignore[reportReturnType] - of the exceptions only ours are left


def _result(answer: bytes | ServiceError, request: Request, identity: str) -> bytes:
    if isinstance(answer, bytes):
        return answer
    return to_json({"problem": problem_body(answer, request.url.path, identity)})


async def _unless_gone(request: Request, work: Coroutine[None, None, Content]) -> Content:
    """Await `work`, or cancel it when the client goes away: nobody would read the answer."""
    serving = asyncio.current_task()
    assert serving is not None
    has_left = is_over = False
    leaving: asyncio.Future[Message] | None = None

    def left(_: object) -> None:
        nonlocal has_left
        if not is_over:
            has_left = True
            serving.cancel()

    def watch() -> None:
        nonlocal leaving
        leaving = asyncio.ensure_future(request.receive())
        leaving.add_done_callback(left)

    # Not before something is waited for: what is refused at once needs no watch.
    watching = asyncio.get_running_loop().call_soon(watch)
    try:
        return await work
    except asyncio.CancelledError:
        # Unless the server itself ends the request, too.
        if has_left and not serving.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        is_over = True
        watching.cancel()
        if leaving is not None:
            leaving.cancel()


class _Answer:
    """Presents a result in the media type that the client asked for."""

    def __init__(
        self, media_type: str, options: DetectOptions, identity: str, allowed_s: float
    ) -> None:
        self._media_type = media_type
        self._options = options
        self._identity = identity
        self._until_s = time.monotonic() + allowed_s
        #: Where the time went, once there is an answer (W3C Server Timing; in milliseconds).
        self.server_timing = ""

    def _go_on(self) -> None:
        """Writing the masks of a large picture may take longer than all else."""
        if time.monotonic() >= self._until_s:
            raise too_late()

    def __call__(self, result: DetectionResult, picture: Picture) -> bytes:
        self.server_timing = _server_timing(result.timings)
        if self._media_type == JSON:
            options = self._options
            return detection_json(result, self._identity, options.mask_format, go_on=self._go_on)
        drawn = draw_detections(picture().pixels_bgr, result.detections)
        picture_format: Literal["jpeg", "png"] = "jpeg" if self._media_type == JPEG else "png"
        return encode_picture(drawn, picture_format)


def _server_timing(timings: Timings) -> str:
    parts = asdict(timings).items()
    return ", ".join(f"{name.removesuffix('_s')};dur={1000 * s:.3f}" for name, s in parts)
