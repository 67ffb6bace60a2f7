"""Answers of the server itself, to what never becomes a request of the application."""

from dataclasses import dataclass
from http import HTTPStatus

from service.http_api.problems import MEDIA_TYPE, plain_problem
from service.http_api.request_ids import HEADER, new_request_id

#: When a client that found no room may come again.
RETRY_AFTER_S = 1


@dataclass(eq=False)
class Refusal(Exception):
    """Why a message is not taken; raised while it is being read."""

    status: HTTPStatus
    detail: str


def refusal_bytes(status: HTTPStatus, detail: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """A whole answer that ends its connection; `headers` are the server's own."""
    identity = new_request_id()
    body = plain_problem(
        int(status), status.phrase, detail, instance="about:blank", request_id=identity
    )
    own = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (HEADER.lower().encode(), identity.encode()),
        (b"connection", b"close"),
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        own.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
    lines += [name + b": " + value for name, value in (*headers, *own)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
