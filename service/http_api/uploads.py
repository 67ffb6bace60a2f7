"""How pictures and their options arrive: raw body, multipart form, or JSON with base64.

A body is taken apart within bounds of what there may be at the most.
"""

import binascii
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pydantic_core import from_json

from service.errors import InvalidRequest, TooManyImages, UnsupportedMediaType
from service.http_api.forms import read_form
from service.http_api.request_bodies import ENVELOPE_BYTES

#: Names of the form parts that hold pictures.
IMAGE_PARTS = ("image", "images", "file")

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


def _parse_multipart(content_type: str, body: bytes, max_images: int) -> Upload:
    images: list[bytes] = []
    options: list[tuple[str, object]] = []

    def take(name: str, is_file: bool, content: bytes) -> None:
        if name in IMAGE_PARTS:
            _require_room(len(images) + 1, max_images)
            images.append(content)
        elif is_file:
            raise InvalidRequest(f"the file is in the part '{name}'; name the part 'image'")
        elif len(options) == _MAX_OPTIONS or len(name) + len(content) > ENVELOPE_BYTES:
            raise InvalidRequest("the form has too many or too long options")
        else:
            options.append((name, content.decode("utf-8", "replace")))

    read_form(content_type, body, take)
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
