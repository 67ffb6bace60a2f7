"""One HTTP connection: uvicorn's httptools protocol, within limits.

llhttp is strict about what would let two parsers disagree on where a request ends, but it bounds
nothing, and uvicorn bounds little: a head without an end, a body that never comes, an answer that
is never read, thousands of pipelined requests, a client told off that keeps sending. All of that
ends here.

A client that closes its writing side has gone: over TCP it cannot be told from one that closed
the connection, and giving up abandoned work at once is worth more than the rare client that
half-closes.
"""

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http_api.draining import Draining
from service.http_api.serving.connections import ConnectionTable
from service.http_api.serving.heads import check_head
from service.http_api.serving.limits import (
    BACKSTOP_S,
    LINGER_S,
    MAX_PIPELINED,
    ConnectionLimits,
    transfer_s,
)
from service.http_api.serving.refusals import Refusal, refusal_bytes

logger = logging.getLogger(__name__)

_TLS_HANDSHAKE = b"\x16"

_BODY_OF_FRAMING = Refusal(
    HTTPStatus.BAD_REQUEST, "the body is mostly framing; send larger chunks, and no trailer"
)


@dataclass(frozen=True)
class Surroundings:
    """What all connections of a server share."""

    config: Config
    state: ServerState
    app_state: dict[str, Any]
    limits: ConnectionLimits
    table: "ConnectionTable[HttpConnection]"
    draining: Draining
    loop: asyncio.AbstractEventLoop


class HttpConnection(HttpToolsProtocol):
    """Reads requests and writes answers; `look_after` keeps its times."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around.config, around.state, around.app_state, around.loop)
        self._around = around
        self._limits = around.limits
        self._table = around.table
        #: Establishes the connection, TLS included.
        self.connecting: asyncio.Task[None] | None = None

        # What is being answered, the requests behind it being in `pipeline`.
        self._answering: RequestResponseCycle | None = None

        # What is being read, if anything, and since when: noted for what takes more than the
        # bytes at hand, and for the first request.
        self._in_head = False
        self._in_body = False
        self._since_s: float | None = None
        self._num_message_bytes = 0
        self._num_body_bytes = 0

        # What is left to do before the end.
        self._is_deaf = False
        self._abort_at_s: float | None = None
        self._unread_until_s: float | None = None

    @property
    def is_answering(self) -> bool:
        """Whether a request is in hand."""
        return self._answering is not None and not self._answering.response_complete

    # -- the transport's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The client is there; with TLS, after the handshake."""
        super().connection_made(transport)
        self._since_s = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._table.remove(self)
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            # uvicorn tells the newest of several pipelined requests alone.
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._is_deaf:
            return
        if not (self._in_head or self._in_body):
            self._begin_head()
        self._num_message_bytes += len(data)
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(_reason(error, data))
        else:
            if self._in_head or self._in_body:
                self._expect_more()

    # -- the parser's calls

    def on_message_begin(self) -> None:
        """A request begins, perhaps one behind another in the same bytes."""
        if not self._in_head:
            self._begin_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole field of the head. Those of a trailer may not add to what was acted on."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: the request begins to be served."""
        assert self.parser is not None
        if self._num_message_bytes > self._limits.max_header_bytes:
            # With bytes of the body, perhaps.
            self._check_size()
        self.expect_100_continue = check_head(
            self.parser.get_method(),
            self.parser.get_http_version(),
            self.headers,
            self._limits.max_headers,
        )
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many requests ahead of their answers")
        if self.parser.should_upgrade():
            # Begun once more, as an ordinary request, by `_decline_upgrade`.
            return
        super().on_headers_complete()
        self.cycle.body = _Pieces()
        self._in_head = False
        self._in_body = True
        self._since_s = None
        self._table.busy(self)
        if self._around.draining.begun:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        if self._in_head:
            # Only the head is, of a request that asks for an upgrade.
            return
        self._in_body = False
        self._since_s = None
        super().on_message_complete()

    # -- the application's calls

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer is written; the next request is served, or waited for.

        In place of uvicorn's, which sets a timer for every answer and forgets to where a body is
        still coming.
        """
        self.server_state.total_requests += 1
        self._unread_until_s = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        now_s = self.loop.time()
        self._table.wait(self, now_s)
        if self._in_body and self.expect_100_continue and not self._num_body_bytes:
            # Nobody knows whether the body comes after an answer that did not ask for it.
            self._hang_up(now_s)
        elif self._in_head or self._in_body:
            # A pipelined request has begun: only now is its client awaited.
            self._since_s = now_s

    # -- the server's calls

    def look_after(self, now_s: float) -> None:
        """End what takes too long. Called about every `ConnectionLimits.sweep_s`."""
        if self.transport is None:  # pyright: ignore[reportUnnecessaryComparison] - TLS handshake
            return
        if self._is_to_be_aborted(now_s):
            self.transport.abort()
        elif self.transport.is_closing() or self._is_deaf:
            pass
        elif self._in_body:
            self._look_after_body(now_s)
        elif not self.is_answering:
            self._look_after_wait(now_s)

    def evict(self) -> None:
        """Close: another client needs the place, and this one waits."""
        if self.transport is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.close()
        elif self.connecting is not None:
            self.connecting.cancel()

    def announce_end(self) -> None:
        """Say in the answers under way that the connection ends with them."""
        if self.is_answering:
            self._newest().keep_alive = False

    def leave(self, *, even_new: bool) -> None:
        """Close as soon as nothing is being answered; no new connection is accepted any more.

        A client that has connected and is about to send its first request is left alone unless
        `even_new`.
        """
        if self.transport is None:  # pyright: ignore[reportUnnecessaryComparison]
            if even_new:
                self.evict()
        elif self.is_answering:
            self.announce_end()
        elif even_new or (self._answering is not None and not self._in_head):
            self.transport.close()

    def cut(self) -> None:
        """End at once, whatever is being answered."""
        if self.transport is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.abort()
        else:
            self.evict()

    # -- reading

    def _begin_head(self) -> None:
        self._in_head = True
        self._num_message_bytes = self._num_body_bytes = 0

    def _expect_more(self) -> None:
        """The message is longer than the bytes that are there."""
        if self._since_s is None:
            self._since_s = self.loop.time()
        framing = self._num_message_bytes - self._num_body_bytes
        if framing > self._limits.max_header_bytes + self._num_body_bytes:
            # A head without an end; or chunks of a few bytes, endless extensions or trailers.
            self._refuse(_BODY_OF_FRAMING if self._in_body else self._head_too_large())

    def _check_size(self) -> None:
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if num_bytes > self._limits.max_header_bytes:
            raise self._head_too_large()

    def _head_too_large(self) -> Refusal:
        return Refusal(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the head of the request has more than {self._limits.max_header_bytes} bytes",
        )

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again without what asks for another protocol.

        A server may ignore that (RFC 9110, section 7.8), but the parser takes everything that
        follows for the other protocol, the body included. Clients that try HTTP/2 first ask so
        with every request; Java's does.
        """
        assert self.parser is not None
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip().lower() for token in value.split(b",")]
                value = b"close" if b"close" in tokens else b"keep-alive"
            if name != b"upgrade":
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._in_head = False
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    # -- ending

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be read, or what takes too long, and end the connection.

        Answers must keep their order: behind a request that is still being answered there is
        nothing to say, the connection ends after it.
        """
        self._is_deaf = True
        logger.debug("%s: %s", self.client, refusal.detail)
        if self._in_body and not self.is_answering:
            # Answered before its body had come: there is nothing more to say.
            self._hang_up(self.loop.time())
            return
        if self.is_answering:
            broken = self._newest()
            if not self._in_body:
                # What was read before is whole, and still gets its answer.
                broken.keep_alive = False
                return
            # It is this very request whose body is broken.
            if broken is not self._answering:
                self.pipeline.popleft()
                self._newest().keep_alive = False
                return
            if broken.response_started:
                self.transport.close()
                return
            broken.disconnected = True
            broken.message_event.set()
        headers = self.server_state.default_headers
        self.transport.write(refusal_bytes(refusal.status, refusal.detail, headers))
        self._hang_up(self.loop.time())

    def _newest(self) -> RequestResponseCycle:
        """The last of the requests that have been read and not been answered."""
        if self.pipeline:
            return self.pipeline[0][0]
        assert self._answering is not None
        return self._answering

    def _hang_up(self, now_s: float) -> None:
        """Close, leaving the client time to read: with unread bytes of its own on the way, an
        immediate close would reset the connection and destroy the answer."""
        self._is_deaf = True
        self._abort_at_s = now_s + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    # -- times

    def _is_to_be_aborted(self, now_s: float) -> bool:
        if self._abort_at_s is not None and now_s >= self._abort_at_s:
            return True
        num_unread = self.transport.get_write_buffer_size()
        if not num_unread:
            self._unread_until_s = None
            return False
        if self._unread_until_s is None:
            self._unread_until_s = now_s + transfer_s(self._limits.write_s, num_unread)
        return now_s >= self._unread_until_s

    def _look_after_body(self, now_s: float) -> None:
        if self._since_s is None or self.flow.read_paused:
            return
        allowed_s = transfer_s(self._limits.body_s, self._num_body_bytes)
        if self.is_answering:
            # The application has the same limit, and a better answer.
            allowed_s += BACKSTOP_S
        if now_s - self._since_s < allowed_s:
            return
        if self.is_answering:
            self._refuse(Refusal(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time"))
        else:
            # Answered long ago; the rest was read so that the client could read the answer.
            self._hang_up(now_s)

    def _look_after_wait(self, now_s: float) -> None:
        if self._since_s is not None:
            if now_s - self._since_s < self._limits.header_s:
                return
            if self._in_head:
                self._refuse(Refusal(HTTPStatus.REQUEST_TIMEOUT, "the head did not arrive in time"))
            else:
                # A connection made in advance: an answer to nothing would only confuse.
                self.transport.close()
            return
        since_s = self._table.waiting_since_s(self)
        if since_s is not None and now_s - since_s >= self._limits.idle_s:
            self.transport.close()


class _Pieces(bytearray):
    """A body as it comes, handed over without being copied into one buffer and out of it again.

    In place of the buffer of uvicorn, which adds to it, takes its length, and makes bytes of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def __len__(self) -> int:
        return self._num_bytes

    def __iadd__(self, piece: bytes) -> "_Pieces":  # pyright: ignore[reportIncompatibleMethodOverride]
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        return self

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


def _reason(error: httptools.HttpParserError, data: bytes) -> Refusal:
    if isinstance(error.__context__, Refusal):
        return error.__context__
    if data[:1] == _TLS_HANDSHAKE:
        return Refusal(HTTPStatus.BAD_REQUEST, "this port speaks http, not https")
    return Refusal(HTTPStatus.BAD_REQUEST, "this is no valid HTTP request")
