"""Reading answers: into values, or into what is wrong with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from math import isfinite
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from service.client.errors import Problem
from service.client.results import DetectionResult, Limits, Model

T = TypeVar("T")

_PROBLEM_TYPE = "application/problem+json"

#: Statuses that our server always explains: without a problem, something else answered.
_ALWAYS_EXPLAINED = frozenset({400, 404, 405, 406, 415, 422, 501})


class Unreadable(ValueError):
    """An answer that is not one of the service's; the message says what it is."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """The body's type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


#: Makes a value of an answer. Raises Unreadable.
Read = Callable[[Answer], T]


@dataclass(frozen=True)
class _Refused:
    problem: Problem


@dataclass(frozen=True)
class _Results:
    results: tuple[DetectionResult | _Refused, ...]


@dataclass(frozen=True)
class _Models:
    models: tuple[Model, ...]


@dataclass(frozen=True)
class _Readiness:
    status: str


@cache
def _adapter(kind: type[object]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _validated(body: bytes, kind: type[T]) -> T:
    return _adapter(kind).validate_json(body, strict=True)


def _read_json(answer: Answer, kind: type[T]) -> T:
    if answer.status != 200 or answer.media_type != "application/json":
        raise Unreadable(_described(answer))
    try:
        return _validated(answer.body, kind)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise Unreadable(f"{place}: {first['msg']}") from error


def _described(answer: Answer) -> str:
    location = answer.headers.get("location")
    if 300 <= answer.status < 400 and location is not None:
        return f"it redirects to {location}; give that server's address"
    return f"it answered {answer.status} with {answer.media_type or 'no content type'}"


def read_detection(answer: Answer) -> DetectionResult:
    """The detections in one picture."""
    return _read_json(answer, DetectionResult)


def read_batch(num_pictures: int) -> Read[list[DetectionResult | Problem]]:
    """What reads the answer to so many pictures."""

    def read(answer: Answer) -> list[DetectionResult | Problem]:
        results = _read_json(answer, _Results).results
        if len(results) != num_pictures:
            raise Unreadable(f"it gave {len(results)} results of {num_pictures} pictures")
        return [each.problem if isinstance(each, _Refused) else each for each in results]

    return read


def read_picture(media_type: str) -> Read[bytes]:
    """What reads an answer that is a picture of that type."""

    def read(answer: Answer) -> bytes:
        if answer.status != 200 or answer.media_type != media_type:
            raise Unreadable(_described(answer))
        return answer.body

    return read


def read_models(answer: Answer) -> tuple[Model, ...]:
    """All models of the server."""
    return _read_json(answer, _Models).models


def read_model(answer: Answer) -> Model:
    """One model."""
    return _read_json(answer, Model)


def read_limits(answer: Answer) -> Limits:
    """What the server takes."""
    return _read_json(answer, Limits)


def read_readiness(answer: Answer) -> bool:
    """Whether pictures can be sent: 503 is an answer here, whoever gives it."""
    if answer.status == 503:
        return False
    _read_json(answer, _Readiness)
    return True


def problem_in(answer: Answer, request_id: str) -> Problem:
    """Why an answer of status 400 or more is no result.

    An answer without a problem document comes from something in front of the server; its status
    alone says enough to act on. Raises Unreadable where the service itself would have explained.
    """
    asked_ms = _retry_after_ms(answer.headers)
    problem = _problem_document(answer)
    if problem is None:
        if answer.status in _ALWAYS_EXPLAINED:
            raise Unreadable(_described(answer))
        problem = _unexplained(answer.status)
    return replace(
        problem,
        status=answer.status,
        request_id=problem.request_id or answer.headers.get("x-request-id") or request_id,
        retry_after_ms=asked_ms if problem.retry_after_ms is None else problem.retry_after_ms,
    )


def _problem_document(answer: Answer) -> Problem | None:
    if answer.media_type != _PROBLEM_TYPE:
        return None
    try:
        problem = _validated(answer.body, Problem)
    except ValidationError:
        return None
    asked_ms = problem.retry_after_ms
    usable = asked_ms is None or (isfinite(asked_ms) and asked_ms >= 0)
    return problem if usable else replace(problem, retry_after_ms=None)


def _unexplained(status: int) -> Problem:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "an unknown status"
    code = phrase.lower().replace(" ", "-")
    detail = f"the server, or a proxy in front of it, answered {status} without saying why"
    return Problem(status=status, code=code, detail=detail, title=phrase)


def _retry_after_ms(headers: Mapping[str, str]) -> float | None:
    """The header's seconds, or its date (RFC 9110 section 10.2.3) by the clock that wrote it."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 10:
        return 1000 * int(text)
    try:
        wanted, now = (parsedate_to_datetime(each) for each in (text, headers.get("date", "")))
        return max(0.0, 1000 * (wanted - now).total_seconds())
    except (TypeError, ValueError):
        return None
