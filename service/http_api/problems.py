"""Errors as RFC 9457 `application/problem+json`: one table from the tree to HTTP statuses."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from service import errors
from service.errors import ServiceError

MEDIA_TYPE = "application/problem+json"

#: The status of an error is that of the nearest class above it that stands here.
HTTP_STATUS: dict[type[ServiceError], int] = {
    errors.InvalidRequest: 400,
    errors.UndecodableImage: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.UnknownModel: 404,
    errors.NotAcceptable: 406,
    errors.RequestTimeout: 408,
    errors.ModelNotLoadable: 409,
    errors.AnswerTooLarge: 413,
    errors.ImageTooLarge: 413,
    errors.TooManyImages: 413,
    errors.UnsupportedMediaType: 415,
    errors.InvalidOption: 422,
    errors.RateLimited: 429,
    errors.RequestRefused: 400,
    errors.InferenceFailed: 500,
    errors.DeadlineExceeded: 504,
    errors.ServiceUnavailable: 503,
    ServiceError: 500,
}


def problem_response(error: ServiceError, *, instance: str, request_id: str) -> Response:
    """The answer to a request that raised `error`."""
    body = problem_body(error, instance, request_id)
    status = status_of(type(error))
    # RFC 9110 asks for it with every 401.
    headers: dict[str, str] = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after_s is not None:
        # The header counts whole seconds.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return Response(json.dumps(body), status, headers, MEDIA_TYPE)


def problem_body(error: ServiceError, instance: str, request_id: str) -> dict[str, object]:
    """The members of the problem that `error` is."""
    body: dict[str, object] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": status_of(type(error)),
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        body["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in error.errors]
    if error.limits:
        body["limits"] = dict(error.limits)
    if error.retry_after_s is not None:
        # Rounded up: who comes back then must not be early.
        body["retry_after_ms"] = math.ceil(error.retry_after_s * 1000)
    return body


def status_of(kind: type[ServiceError]) -> int:
    """That of the nearest class above that stands in the table."""
    return next(HTTP_STATUS[each] for each in kind.__mro__ if each in HTTP_STATUS)


def plain_response(
    status: int,
    *,
    method: str,
    path: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """No such path, or a method that it does not have."""
    title = HTTPStatus(status).phrase
    detail = f"{method} {path}: {title.lower()}; see /docs"
    content = plain_problem(status, title, detail, instance=path, request_id=request_id)
    return Response(content, status, headers, MEDIA_TYPE)


def plain_problem(status: int, title: str, detail: str, *, instance: str, request_id: str) -> bytes:
    """A problem that is not of our tree: no such path, a method that is not allowed, a bug."""
    return json.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": instance,
            "code": problem_code(title),
            "request_id": request_id,
        }
    ).encode()


def problem_code(title: str) -> str:
    """The code of a problem that is not of our tree."""
    return title.lower().replace(" ", "-")


def all_problems() -> dict[str, type[ServiceError]]:
    """Every code that an answer may carry, to its class; those that only stand above others are
    never raised."""
    found: dict[str, type[ServiceError]] = {}
    waiting: list[type[ServiceError]] = [ServiceError]
    while waiting:
        kind = waiting.pop()
        below = kind.__subclasses__()
        if not below:
            found[kind.code] = kind
        waiting.extend(below)
    return found
