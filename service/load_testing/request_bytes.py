"""The bytes of a request, made once before the load begins: nothing is encoded while it runs."""

import base64
import hashlib
import json
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import quote, urlencode, urlsplit

from service.version import VERSION

Body = Literal["raw", "multipart", "json"]
BODIES: tuple[Body, ...] = get_args(Body)

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}

#: Headers that carry who one is; their values are not written into reports.
_SECRET = re.compile(r"authorization|cookie|key|token|secret|password", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """Where requests go. `resource` is the path with its query."""

    host: str
    port: int
    is_tls: bool
    resource: str

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == _DEFAULT_PORTS["https" if self.is_tls else "http"]
        return host if is_default else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """For people."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


@dataclass(frozen=True)
class Picture:
    """An encoded picture and what it is called."""

    content: bytes
    name: str

    @property
    def media_type(self) -> str:
        """By the name, as a browser says it."""
        return mimetypes.guess_type(self.name)[0] or "application/octet-stream"


@dataclass(frozen=True)
class RequestShape:
    """How a picture and its options become a request.

    `options` stand where the body has room for them: in the query, in form fields, or in the JSON.
    There, as in `json_field`, a dot leads into an object.
    """

    method: str = "POST"
    body: Body = "raw"
    field: str = "image"
    json_field: str = "image.base64"
    options: Sequence[tuple[str, str]] = ()
    headers: Sequence[tuple[str, str]] = ()


def parse_target(url: str) -> Target:
    """An http or https URL to where it leads. Raises ValueError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"'{url}' is no URL: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"'{url}' is no URL such as http://localhost:8000/detect")
    if parts.username is not None:
        raise ValueError("give names and passwords as --header 'Authorization: ...', not in a URL")
    resource = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        resource += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Target(
        host=parts.hostname,
        port=port or _DEFAULT_PORTS[parts.scheme],
        is_tls=parts.scheme == "https",
        resource=resource,
    )


def parse_header(text: str) -> tuple[str, str]:
    """`Name: value` as it is sent. Raises ValueError."""
    name, colon, value = text.partition(":")
    value = value.strip()
    if not colon or not _TOKEN.fullmatch(name):
        raise ValueError(f"header '{text}': a header is written 'Name: value'")
    if not value.isprintable() or not value.isascii():
        raise ValueError(f"header '{name}': its value may have printable ASCII only")
    return name, value


def is_secret(header_name: str) -> bool:
    """Whether a header's value is nobody else's business."""
    return _SECRET.search(header_name) is not None


def parse_option(text: str) -> tuple[str, str]:
    """`name=value`. Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"option '{text}': an option is written name=value")
    return name, value


def build_request(target: Target, shape: RequestShape, picture: Picture) -> bytes:
    """A whole HTTP/1.1 request. Raises ValueError where the shape contradicts itself."""
    if not _TOKEN.fullmatch(shape.method):
        raise ValueError(f"method '{shape.method}' is none; leave --method out for POST")
    resource = target.resource
    if shape.body == "multipart":
        content_type, body = _multipart(shape, picture)
    elif shape.body == "json":
        content_type, body = "application/json", _json(shape, picture)
    else:
        content_type, body = picture.media_type, picture.content
        if shape.options:
            resource += ("&" if "?" in resource else "?") + urlencode(shape.options)
    headers = {
        "Host": target.authority,
        "User-Agent": f"rtmdet-bench/{VERSION}",
        "Accept": "*/*",
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
    }
    given = {name.lower() for name, _ in shape.headers}
    kept = [(name, value) for name, value in headers.items() if name.lower() not in given]
    lines = [f"{shape.method} {resource} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in [*kept, *shape.headers]]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _multipart(shape: RequestShape, picture: Picture) -> tuple[str, bytes]:
    # The same bytes in every run; that it stands within a picture is as good as impossible.
    boundary = "rtmdet-" + hashlib.sha256(picture.content).hexdigest()[:32]
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
        for name, value in shape.options
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(shape.field)}"; '
        f'filename="{_quoted(Path(picture.name).name)}"\r\n'
        f"Content-Type: {picture.media_type}\r\n\r\n"
    )
    body = "".join(parts).encode() + picture.content + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def _quoted(text: str) -> str:
    """As browsers write names in a part's header."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _json(shape: RequestShape, picture: Picture) -> bytes:
    document: dict[str, object] = {}
    for name, value in shape.options:
        _put(document, name, _json_value(value))
    _put(document, shape.json_field, base64.b64encode(picture.content).decode("ascii"))
    return json.dumps(document).encode()


def _json_value(text: str) -> object:
    """0.4 and true are a number and a truth value; all else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(document: dict[str, object], path: str, value: object) -> None:
    *parents, last = path.split(".")
    place = document
    for name in parents:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ValueError(f"'{path}' leads into '{name}', which has a value already")
        place = cast("dict[str, object]", inner)
    if not last or last in place:
        raise ValueError(f"'{path}' is empty or given twice")
    place[last] = value
