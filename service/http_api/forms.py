"""Takes a multipart form apart (RFC 7578)."""

import binascii
import logging
import quopri
from collections.abc import Callable
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from service.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# Any client could fill the log with damaged forms. Nothing is lost: each is refused here.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

#: Is given a part's name, whether it has a file name, and its content.
TakePart = Callable[[str, bool, bytes], None]


def read_form(content_type: str, body: bytes, take: TakePart) -> None:
    """Hand over each part as soon as it ends; what `take` raises ends it.

    Raises InvalidRequest where the form is damaged.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest(
            "multipart/form-data without a boundary; let the client library set it"
        )
    try:
        parser = MultipartParser(boundary, _Parts(take).callbacks(), len(body) + 1)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise InvalidRequest(f"the multipart body is damaged: {error}") from error
    # Not looked for in the body: from the front a search takes longer than all else, and from the
    # end it takes seconds on bodies that are made for it.
    if parser.state != MultipartState.END:
        raise InvalidRequest("the multipart body is cut off before its closing boundary")


class _Parts:
    """Puts the parser's pieces together; each is part of the body, as (bytes, start, end)."""

    def __init__(self, take: TakePart) -> None:
        self._take = take
        self._begin()

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.append(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.append(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._field: list[bytes] = []
        self._value: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._content: list[bytes] = []
        # What was seen of it and is not copied yet: pieces mostly follow each other.
        self._start = self._stop = 0
        self._body = b""

    def _header(self) -> None:
        self._headers[b"".join(self._field).lower()] = b"".join(self._value)
        self._field.clear()
        self._value.clear()

    def _data(self, body: bytes, start: int, end: int) -> None:
        if body is self._body and start == self._stop:
            self._stop = end
        else:
            self._copy()
            self._body, self._start, self._stop = body, start, end

    def _copy(self) -> None:
        self._content.append(self._body[self._start : self._stop])

    def _end(self) -> None:
        self._copy()
        _, parameters = parse_options_header(self._headers.get(b"content-disposition"))
        name = parameters.get(b"name", b"").decode("utf-8", "replace")
        if not name:
            raise InvalidRequest("a part of the form has no name; call the picture's 'image'")
        encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        content = _decoded(b"".join(self._content), encoding)
        self._take(name, b"filename" in parameters, content)


def _decoded(content: bytes, encoding: bytes) -> bytes:
    """What was encoded for mail; other encodings leave the bytes as they are.

    Raises ValueError.
    """
    if encoding == b"base64":
        return binascii.a2b_base64(content)
    if encoding == b"quoted-printable":
        return quopri.decodestring(content)
    return content
