"""The client for programs with threads, or with nothing else to do."""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from service.client import calls
from service.client.answers import Answer
from service.client.calls import Call, PictureFormat
from service.client.errors import ConnectionFailed, Problem
from service.client.exchange import Attempt, Failure, Pause, Terms, exchange
from service.client.options import DetectOptions, detect_options
from service.client.pictures import ArrayFormat, Picture
from service.client.results import DetectionResult, Limits, Model
from service.client.retries import Retry
from service.client.transport import (
    ConnectionWatch,
    RemainingTime,
    connection_settings,
    failure_of,
    too_late,
)

T = TypeVar("T")


class Client:
    """Calls a server; threads may share it, and all calls share its connections.

    `timeout_s` bounds each call as a whole, repeated attempts and their pauses included; the server
    is told how much is left. `array_format` is how arrays of pixels are sent. `ssl_context` holds
    authorities and certificates of your own, `headers` are sent with every request; `transport`
    is an httpx transport to use instead of the network. `clock` and `sleep` are for tests.

    Every method takes `timeout_s` and `request_id` for that call alone, and raises the errors of
    `service.client.errors`.
    """

    def __init__(  # noqa: PLR0913 - one parameter for each setting
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        array_format: ArrayFormat = "png",
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings = connection_settings(base_url, api_key, headers, ssl_context)
        self._http = httpx.Client(transport=transport, **settings)
        self._terms = Terms(base_url, timeout_s, retry or Retry(), clock)
        self._array_format: ArrayFormat = array_format
        self._sleep = sleep

    def detect(
        self,
        picture: Picture,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[DetectOptions],
    ) -> DetectionResult:
        """What is in a picture.

        The picture is a path, the bytes of a file, an open binary file, or BGR pixels [h, w, 3].
        Options are those of `DetectOptions`: `model`, `score_threshold`, `iou_threshold`,
        `max_detections`, `classes`, `class_agnostic_nms`, `mask_format`, `priority`.
        """
        call = calls.detect(picture, detect_options(**options), self._array_format)
        return self._make(call, timeout_s, request_id)

    def detect_batch(
        self,
        pictures: Sequence[Picture],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[DetectOptions],
    ) -> list[DetectionResult | Problem]:
        """What is in each of several pictures, in one request; in their order.

        Where one picture is at fault, its place has the problem and the others their results.
        """
        call = calls.detect_batch(pictures, detect_options(**options), self._array_format)
        return self._make(call, timeout_s, request_id)

    def draw(
        self,
        picture: Picture,
        *,
        format: PictureFormat = "jpeg",
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[DetectOptions],
    ) -> bytes:
        """The file of the picture with what is in it drawn; options as for `detect`."""
        call = calls.draw(picture, format, detect_options(**options), self._array_format)
        return self._make(call, timeout_s, request_id)

    def models(
        self, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> tuple[Model, ...]:
        """All models of the server, those that failed to load included."""
        return self._make(calls.MODELS, timeout_s, request_id)

    def limits(self, *, timeout_s: float | None = None, request_id: str | None = None) -> Limits:
        """What the server takes."""
        return self._make(calls.LIMITS, timeout_s, request_id)

    def is_ready(self, *, timeout_s: float | None = None, request_id: str | None = None) -> bool:
        """Whether pictures can be sent now; False also while nobody answers at the address.

        Tried once, for loops that wait. Raises where waiting would not help.
        """
        try:
            return self._make(calls.READINESS, timeout_s, request_id)
        except ConnectionFailed as error:
            if error.may_pass:
                return False
            raise

    def load_model(
        self,
        name: str,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Model:
        """Have the server load a model of its repository, or replace the version that it serves.

        The newest version, unless one is named. Returns once the model answers.
        """
        return self._make(calls.load_model(name, version), timeout_s, request_id)

    def unload_model(
        self, name: str, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> Model:
        """Have the server take a model out of service, after what it has accepted."""
        return self._make(calls.unload_model(name), timeout_s, request_id)

    def close(self) -> None:
        """Close all connections; the client is of no use afterwards."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._terms.server!r})"

    def _make(self, call: Call[T], timeout_s: float | None, request_id: str | None) -> T:
        steps = exchange(call, self._terms, timeout_s=timeout_s, request_id=request_id)
        outcome: Answer | Failure | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, Pause):
                self._sleep(step.seconds)
                outcome = None
            else:
                outcome = self._send(step)

    def _send(self, attempt: Attempt) -> Answer | Failure:
        watch = ConnectionWatch()
        response: httpx.Response | None = None
        try:
            request = self._http.build_request(
                attempt.method,
                attempt.path,
                params=attempt.query or None,
                headers=attempt.headers,
                content=_timely(attempt.body.chunks(), attempt) if attempt.body else None,
                extensions={"timeout": RemainingTime(attempt), "trace": watch},
            )
            response = self._http.send(request, stream=True)
            body = b"".join(_timely(response.iter_bytes(), attempt))
            return Answer(response.status_code, dict(response.headers), body)
        except httpx.RequestError as error:
            return failure_of(error, watch=watch, answered=response is not None)
        finally:
            if response is not None:
                response.close()


def _timely(chunks: Iterator[bytes], attempt: Attempt) -> Iterator[bytes]:
    for chunk in chunks:
        if attempt.remaining_s() <= 0:
            raise too_late()
        yield chunk
