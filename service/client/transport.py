"""What both clients need of httpx: its settings, its requests, and its errors as ours."""

import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from service.client.exchange import Attempt, Failure
from service.version import VERSION

# Zero would mean not to wait at all, which is another kind of error.
_SHORTEST_S = 0.001

_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

#: What OpenSSL makes of an answer in plain HTTP.
_NO_TLS_AT_ALL = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})


def connection_settings(
    base_url: str,
    api_key: str | None,
    headers: Mapping[str, str] | None,
    ssl_context: ssl.SSLContext | None,
) -> dict[str, Any]:
    """Keyword arguments of an httpx client. Raises ValueError for what cannot be used."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"server '{base_url}': {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"server '{base_url}': write it as http://localhost:8000")
    sent = {"User-Agent": f"rtmdet-client/{VERSION}"}
    if api_key is not None:
        if not api_key.isascii() or not api_key.isprintable() or not api_key.strip():
            raise ValueError("api_key: printable ASCII characters alone, at least one")
        sent["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": url,
        "headers": sent | dict(headers or {}),
        "verify": True if ssl_context is None else ssl_context,
    }


class RemainingTime(dict[str, float | None]):
    """The timeouts of an attempt: whatever step asks, it gets what is left at that moment.

    httpx bounds every step (connecting, each write, each read) by itself; bounded like this,
    all of them together end in time.
    """

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self._attempt = attempt

    def get(self, _step: str, _default: object = None, /) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Seconds; None where the call has all the time."""
        remaining_s = self._attempt.remaining_s()
        return None if remaining_s == float("inf") else max(remaining_s, _SHORTEST_S)


class ConnectionWatch:
    """Notes whether a request opened a connection; httpx calls it at every step."""

    def __init__(self) -> None:
        self.opened = False

    def __call__(self, step: str, _info: object) -> None:
        """A step begins or ends."""
        if step.startswith("connection.connect_"):
            self.opened = True

    async def awaited(self, step: str, info: object) -> None:
        """The same for asynchronous clients."""
        self(step, info)


def failure_of(error: httpx.RequestError, *, watch: ConnectionWatch, answered: bool) -> Failure:
    """What became of an attempt that ended in `error`, perhaps after the answer had begun."""
    if isinstance(error, httpx.TimeoutException):
        return Failure("timed out", timed_out=True)
    if answered:
        return Failure(f"the answer broke off: {error}", may_pass=False)
    # Of the handshake; what fails on a connection that had worked may pass.
    wrong = _tls_error(error) if watch.opened else None
    if wrong is not None:
        return Failure(_tls_reason(wrong), may_pass=False)
    ours = isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol)
    broke = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
    return Failure(
        str(error) or type(error).__name__,
        may_pass=not ours,
        was_kept_alive=broke and not watch.opened,
    )


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """What the two ends do not agree on, and never will; a connection that was closed is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CLOSED):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        wrong = error.verify_message
        return f"its certificate is not trusted: {wrong}; give its authority in ssl_context"
    if error.reason in _NO_TLS_AT_ALL:
        return "what answers there speaks no TLS; is it http instead of https?"
    return f"no TLS with it: {error.reason or error}"


def too_late() -> httpx.TimeoutException:
    """For ending an upload or an answer that goes on and on."""
    return httpx.ReadTimeout("the call's time is over")
