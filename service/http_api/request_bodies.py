"""Reads request bodies, bounded before it begins: in bytes, in time, in what all may take."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from starlette.requests import ClientDisconnect, Request

from service.errors import ImageTooLarge, RequestTimeout
from service.http_api.request_record import record_of
from service.http_api.serving.limits import credited_until_s
from service.http_api.upload_budget import TakeBytes

#: Room for boundaries, part headers, options and JSON around a picture.
ENVELOPE_BYTES = 64 * 1024


@dataclass(frozen=True)
class BodyLimit:
    """Bytes of pictures that a body may have, and under which name `/limits` says so."""

    name: Literal["max_image_bytes", "max_batch_bytes"]
    max_bytes: int


async def read_body(
    request: Request, limit: BodyLimit, max_seconds: float, take: TakeBytes
) -> bytes:
    """The whole body, its bytes taken of an `UploadBudget`.

    Raises ImageTooLarge as soon as it is known to be larger than allowed, RequestTimeout when it
    is silent for `max_seconds` or comes too slowly for as long, and Overloaded.
    """
    media_type = media_type_of(request)
    allowed = limit.max_bytes
    if media_type == "application/json":
        allowed = allowed * 4 // 3 + ENVELOPE_BYTES
    elif media_type == "multipart/form-data":
        allowed += ENVELOPE_BYTES
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > allowed:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size, more = 0, True
    now = asyncio.get_running_loop().time
    until_s = now() + max_seconds
    try:
        async with asyncio.timeout_at(until_s) as patience:
            while more:
                # Not by `request.stream()`, which costs as much again as the rest of this.
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk, more = message.get("body", b""), message.get("more_body", False)
                size += len(chunk)
                if size > allowed:
                    raise _too_large(limit)
                take(len(chunk))
                chunks.append(chunk)
                if more:
                    until_s = credited_until_s(until_s, len(chunk), max_seconds, now())
                    patience.reschedule(until_s)
    except TimeoutError as error:
        raise RequestTimeout(
            f"the picture did not arrive within {max_seconds:g} s; send it faster or smaller"
        ) from error
    finally:
        record_of(request).bytes_in += size
    return b"".join(chunks)


def media_type_of(request: Request) -> str:
    """The body's type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: BodyLimit) -> ImageTooLarge:
    return ImageTooLarge(
        f"the body has more than {limit.max_bytes} bytes of picture; send fewer, smaller or "
        "stronger compressed ones",
        limits={limit.name: limit.max_bytes},
    )
