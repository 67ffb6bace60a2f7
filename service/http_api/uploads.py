"""How pictures and their options arrive: raw body, multipart form, or JSON with base64.

Reading is bounded before it begins, taking apart by what there may be at the most.
"""

import asyncio
import binascii
import logging
import string
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Literal, cast

from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser
from starlette.requests import Request

from service.errors import (
    ImageTooLarge,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    TooManyImages,
    UnsupportedMediaType,
)
from service.http_api.serving.limits import credited_until_s

# Any client could fill the log with damaged forms. Nothing is lost: each is refused here.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

#: Names of the form parts that hold pictures.
IMAGE_PARTS = ("image", "images", "file")

#: Takes bytes of an `UploadBudget`; raises Overloaded where there are no more.
TakeBytes = Callable[[int], None]

#: Room for boundaries, part headers, options and JSON around a picture.
_ENVELOPE_BYTES = 64 * 1024

#: Options that one request may name, and marks of structure in a JSON body: a body of
#: brackets alone would keep the interpreter's lock for seconds.
_MAX_OPTIONS = 64
_MAX_JSON_MARKS = 10_000
_MAX_CONTENT_TYPE = 1024

_WHITESPACE = string.whitespace.encode()

_HOW_TO = (
    "send the picture as the body with a Content-Type such as image/jpeg, as the part 'image' of "
    'multipart/form-data, or as JSON {"image": {"base64": "..."}}'
)


@dataclass(frozen=True)
class Upload:
    """Encoded pictures, and the options that came in the body with them."""

    images: tuple[bytes, ...]
    options: Sequence[tuple[str, object]]


class UploadBudget:
    """Bytes of request bodies that may be in memory at once, all clients together.

    One client may have half of them, so that it cannot keep all others out.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes_per_client = max_bytes // 2
        self._free = max_bytes
        self._taken: Counter[str] = Counter()

    @contextmanager
    def share(self, client: str) -> Generator[TakeBytes]:
        """A function that takes bytes of the budget; they are given back when the block ends.

        It raises Overloaded where there are no more.
        """
        taken = 0

        def take(num_bytes: int) -> None:
            nonlocal taken
            left = min(self._free, self.max_bytes_per_client - self._taken[client])
            if num_bytes > left:
                raise Overloaded("too many uploads at once; try again later", retry_after_s=1.0)
            self._free -= num_bytes
            self._taken[client] += num_bytes
            taken += num_bytes

        try:
            yield take
        finally:
            self._free += taken
            self._taken[client] -= taken
            if not self._taken[client]:
                del self._taken[client]


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
        allowed = allowed * 4 // 3 + _ENVELOPE_BYTES
    elif media_type == "multipart/form-data":
        allowed += _ENVELOPE_BYTES
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > allowed:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    now = asyncio.get_running_loop().time
    until_s = now() + max_seconds
    try:
        async with asyncio.timeout_at(until_s) as patience:
            async for chunk in request.stream():
                size += len(chunk)
                if size > allowed:
                    raise _too_large(limit)
                take(len(chunk))
                chunks.append(chunk)
                until_s = credited_until_s(until_s, len(chunk), max_seconds, now())
                patience.reschedule(until_s)
    except TimeoutError as error:
        raise RequestTimeout(
            f"the picture did not arrive within {max_seconds:g} s; send it faster or smaller"
        ) from error
    return b"".join(chunks)


def media_type_of(request: Request) -> str:
    """The body's type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_raw(content_type: str) -> bool:
    """Whether the body is the picture itself, so that there is nothing to take apart."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.startswith("image/") or media_type == "application/octet-stream"


def parse_upload(content_type: str, body: bytes, max_images: int = 1) -> Upload:
    """Take the body apart: 1 to `max_images` pictures.

    Raises InvalidRequest, TooManyImages, UnsupportedMediaType.
    """
    if len(content_type) > _MAX_CONTENT_TYPE:
        raise InvalidRequest(f"the Content-Type has more than {_MAX_CONTENT_TYPE} characters")
    media_type = content_type.partition(";")[0].strip().lower()
    if not body:
        raise InvalidRequest(f"the request has no body; {_HOW_TO}")
    if is_raw(content_type):
        return Upload((body,), ())
    if media_type == "multipart/form-data":
        return _parse_multipart(content_type, body, max_images)
    if media_type == "application/json":
        return _parse_json(body, max_images)
    written = f"Content-Type '{media_type}' is not served" if media_type else "no Content-Type"
    raise UnsupportedMediaType(f"{written}; {_HOW_TO}")


def _require_room(num_images: int, max_images: int) -> None:
    """Refuse more pictures than there may be; before any further one is taken out of the body."""
    if num_images > max_images:
        if max_images == 1:
            raise InvalidRequest("several pictures in one request; send them to /detect:batch")
        raise TooManyImages(
            f"too many pictures in one request; send at most {max_images}",
            limits={"max_images_per_request": max_images},
        )


def _boundary_of(content_type: str) -> str:
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise InvalidRequest(
            "multipart/form-data without a boundary; let the client library set it"
        )
    return boundary


def _parse_multipart(content_type: str, body: bytes, max_images: int) -> Upload:
    boundary = _boundary_of(content_type)
    images: list[bytes] = []
    options: list[tuple[str, object]] = []

    def on_image(data: bytes) -> None:
        _require_room(len(images) + 1, max_images)
        images.append(data)

    def on_field(field: Field) -> None:
        name = (field.field_name or b"").decode("utf-8", "replace")
        value = field.value or b""
        if name in IMAGE_PARTS:
            on_image(value)
        else:
            if len(options) == _MAX_OPTIONS or len(name) + len(value) > _ENVELOPE_BYTES:
                raise InvalidRequest("the form has too many or too long options")
            options.append((name, value.decode("utf-8", "replace")))

    def on_file(file: File) -> None:
        name = (file.field_name or b"").decode("utf-8", "replace")
        if name not in IMAGE_PARTS:
            raise InvalidRequest(f"the file is in the part '{name}'; name the part 'image'")
        file.file_object.seek(0)
        on_image(file.file_object.read())
        file.close()

    # Everything is in memory already, so no part is worth a temporary file.
    config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "MAX_BODY_SIZE": len(body) + 1}
    try:
        parser = FormParser(
            "multipart/form-data", on_field, on_file, boundary=boundary.encode(), config=config
        )
        parser.write(body)
        parser.finalize()
        if b"--" + boundary.encode() + b"--" not in body:
            raise InvalidRequest("the multipart body is cut off before its closing boundary")
    except (FormParserError, ValueError) as error:
        raise InvalidRequest(f"the multipart body is damaged: {error}") from error
    if not images:
        raise InvalidRequest("the form has no part 'image'; add the picture under that name")
    return Upload(tuple(images), options)


def _parse_json(body: bytes, max_images: int) -> Upload:
    if sum(body.count(mark) for mark in (b",", b":", b"[", b"{")) > _MAX_JSON_MARKS:
        raise InvalidRequest("the JSON body has too many members or elements")
    try:
        document: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is no valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest(f"the JSON body must be an object; {_HOW_TO}")
    members = cast("dict[str, object]", document)
    images = members.pop("images") if "images" in members else [members.pop("image", None)]
    if "image" in members:
        raise InvalidRequest("'image' and 'images' in one request; send one of them")
    if not isinstance(images, list):
        raise InvalidRequest("'images' must be an array of objects with the member 'base64'")
    nested = members.pop("options", {})
    if not isinstance(nested, dict):
        raise InvalidRequest("'options' must be an object of names and values")
    options = [*members.items(), *cast("dict[str, object]", nested).items()]
    given = cast("list[object]", images)
    _require_room(len(given), max_images)
    if not given:
        raise InvalidRequest(f"the request has no picture; {_HOW_TO}")
    return Upload(tuple(map(_decode_base64, given)), options)


def _decode_base64(image: object) -> bytes:
    if isinstance(image, list):
        raise InvalidRequest("several pictures under 'image'; send 'images' to /detect:batch")
    if not isinstance(image, dict):
        raise InvalidRequest(f"'image' is missing or no object; {_HOW_TO}")
    source = cast("dict[str, object]", image)
    if "url" in source:
        raise InvalidRequest("pictures are not fetched from URLs; send the bytes as base64")
    text = source.get("base64")
    if set(source) != {"base64"} or not isinstance(text, str):
        raise InvalidRequest("'image' must have the one member 'base64', a string")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = _from_base64(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"image.base64 is no valid base64: {error}") from error
    if not data:
        raise InvalidRequest("image.base64 is empty; put the picture's bytes there")
    return data


def _from_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        # Lines of mail, for one. Seldom, and so looked for only where the quick way fails. Not by
        # splitting: the pieces of a text full of spaces would take 25 times its memory.
        packed = text.encode("ascii").translate(None, _WHITESPACE)
        return binascii.a2b_base64(packed, strict_mode=True)


def _too_large(limit: BodyLimit) -> ImageTooLarge:
    return ImageTooLarge(
        f"the body has more than {limit.max_bytes} bytes of picture; send fewer, smaller or "
        "stronger compressed ones",
        limits={limit.name: limit.max_bytes},
    )
