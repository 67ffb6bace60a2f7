"""What a head must be beyond what llhttp checks."""

from collections.abc import Sequence
from http import HTTPStatus

from service.http_api.serving.refusals import Refusal


def check_head(
    method: bytes, version: str, headers: Sequence[tuple[bytes, bytes]], max_headers: int
) -> bool:
    """Whether the client waits for a 100 before it sends the body.

    `headers` have their names in lower case. Raises Refusal.
    """
    if version not in ("1.1", "1.0"):
        raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 and HTTP/1.0 are served")
    if len(headers) > max_headers:
        raise Refusal(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request has more than {max_headers} header fields",
        )
    num_hosts = 0
    expects_continue = False
    for name, value in headers:
        if name == b"host":
            num_hosts += 1
        elif name == b"transfer-encoding":
            _check_encoding(value, version)
        elif name == b"expect":
            expects_continue = value.lower() == b"100-continue"
    if num_hosts > 1 or (version == "1.1" and not num_hosts):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the request must have one Host header")
    if method == b"CONNECT":
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "this server is no proxy")
    return expects_continue


def _check_encoding(value: bytes, version: str) -> None:
    if version == "1.0":
        raise Refusal(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding")
    if value.lower() != b"chunked":
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "the only Transfer-Encoding is chunked")
