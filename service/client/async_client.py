"""The client for programs on asyncio."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from service.client import calls
from service.client.answers import Answer
from service.client.calls import Call, PictureFormat
from service.client.errors import ConnectionFailed, Problem
from service.client.exchange import Attempt, Failure, Pause, Terms, exchange
from service.client.options import DetectOptions, detect_options
from service.client.pictures import ArrayFormat, Body, Picture
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


class AsyncClient:
    """As `Client`, awaited. Files are read and arrays encoded on threads, not on the event loop.

    A call that is cancelled closes its connection, and the server stops working on it.
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
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        settings = connection_settings(base_url, api_key, headers, ssl_context)
        self._http = httpx.AsyncClient(transport=transport, **settings)
        self._terms = Terms(base_url, timeout_s, retry or Retry(), clock)
        self._array_format: ArrayFormat = array_format
        self._sleep = sleep

    async def detect(
        self,
        picture: Picture,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[DetectOptions],
    ) -> DetectionResult:
        """As `Client.detect`."""
        fields = detect_options(**options)
        call = await asyncio.to_thread(calls.detect, picture, fields, self._array_format)
        return await self._make(call, timeout_s, request_id)

    async def detect_batch(
        self,
        pictures: Sequence[Picture],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[DetectOptions],
    ) -> list[DetectionResult | Problem]:
        """As `Client.detect_batch`."""
        fields = detect_options(**options)
        call = await asyncio.to_thread(calls.detect_batch, pictures, fields, self._array_format)
        return await self._make(call, timeout_s, request_id)

    async def draw(
        self,
        picture: Picture,
        *,
        format: PictureFormat = "jpeg",
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[DetectOptions],
    ) -> bytes:
        """As `Client.draw`."""
        fields = detect_options(**options)
        call = await asyncio.to_thread(calls.draw, picture, format, fields, self._array_format)
        return await self._make(call, timeout_s, request_id)

    async def models(
        self, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> tuple[Model, ...]:
        """As `Client.models`."""
        return await self._make(calls.MODELS, timeout_s, request_id)

    async def limits(
        self, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> Limits:
        """As `Client.limits`."""
        return await self._make(calls.LIMITS, timeout_s, request_id)

    async def is_ready(
        self, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> bool:
        """As `Client.is_ready`."""
        try:
            return await self._make(calls.READINESS, timeout_s, request_id)
        except ConnectionFailed as error:
            if error.may_pass:
                return False
            raise

    async def load_model(
        self,
        name: str,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Model:
        """As `Client.load_model`."""
        return await self._make(calls.load_model(name, version), timeout_s, request_id)

    async def unload_model(
        self, name: str, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> Model:
        """As `Client.unload_model`."""
        return await self._make(calls.unload_model(name), timeout_s, request_id)

    async def close(self) -> None:
        """Close all connections; the client is of no use afterwards."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._terms.server!r})"

    async def _make(self, call: Call[T], timeout_s: float | None, request_id: str | None) -> T:
        steps = exchange(call, self._terms, timeout_s=timeout_s, request_id=request_id)
        outcome: Answer | Failure | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, Pause):
                await self._sleep(step.seconds)
                outcome = None
            else:
                outcome = await self._send(step)

    async def _send(self, attempt: Attempt) -> Answer | Failure:
        watch = ConnectionWatch()
        response: httpx.Response | None = None
        try:
            request = self._http.build_request(
                attempt.method,
                attempt.path,
                params=attempt.query or None,
                headers=attempt.headers,
                content=_timely(_chunks(attempt.body), attempt) if attempt.body else None,
                extensions={"timeout": RemainingTime(attempt), "trace": watch.awaited},
            )
            response = await self._http.send(request, stream=True)
            body = b"".join([chunk async for chunk in _timely(response.aiter_bytes(), attempt)])
            return Answer(response.status_code, dict(response.headers), body)
        except httpx.RequestError as error:
            return failure_of(error, watch=watch, answered=response is not None)
        finally:
            if response is not None:
                await response.aclose()


async def _chunks(body: Body) -> AsyncIterator[bytes]:
    for piece in body.pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            chunks = piece.chunks()
            while chunk := await asyncio.to_thread(next, chunks, b""):
                yield chunk


async def _timely(chunks: AsyncIterator[bytes], attempt: Attempt) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if attempt.remaining_s() <= 0:
            raise too_late()
        yield chunk
