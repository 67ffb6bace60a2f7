"""HTTP/1.1 connections that cost little: requests are finished bytes, answers are counted.

An answer's body is parsed for its end and thrown away. There is a callback for each request and no
task, so that a process which shares its cores with the server takes little of them
(`python -m benchmarks.load_generator` measures how little).
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import cast

import httptools

from service.load_testing.exchanges import Answer

#: Servers close idle connections (some after two seconds). A request that is written at that very
#: moment fails through nobody's fault, so what was idle for longer than this is not used again.
_MAX_IDLE_S = 1.0

#: Bytes of an error's body that are kept.
_EXCERPT_BYTES = 500

_CLOSED = "the connection was closed"

Done = Callable[[Answer], None]


class CannotConnect(OSError):
    """Nothing answers at the address; the message says what to do."""


class _Pending:
    """A request under way: finished once, by an answer, a failure or the time."""

    __slots__ = ("_done", "_timer", "give_up", "request")

    def __init__(self, request: bytes, done: Done, timeout_s: float) -> None:
        self.request = request
        self._done: Done | None = done
        #: Ends what works for it: the connection, or the opening of one.
        self.give_up: Callable[[], object] = lambda: None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(timeout_s, self._time_is_over, timeout_s)

    def finish(self, answer: Answer) -> None:
        """Tell; whatever comes later is ignored."""
        self._timer.cancel()
        done, self._done = self._done, None
        if done is not None:
            done(answer)

    def _time_is_over(self, timeout_s: float) -> None:
        self.finish(Answer(failure=f"no answer within {timeout_s:g} s"))
        self.give_up()


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(
        self, free: Callable[["Connection"], None], gone: Callable[["Connection"], None]
    ) -> None:
        """`free` hears of every answer after which it can be used again, `gone` of its end."""
        self._free = free
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self._pending: _Pending | None = None
        self.has_ended = False
        self.idle_since_s = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._forget()

    @property
    def is_usable(self) -> bool:
        """Whether it is open in both directions."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, pending: _Pending) -> None:
        """Write a request. Nothing else may be under way."""
        assert self._transport is not None
        assert self._pending is None
        if self._transport.is_closing():
            pending.finish(Answer(failure=_CLOSED))
            return
        self._pending = pending
        pending.give_up = self.abort
        self._transport.write(pending.request)

    def close(self) -> None:
        """End it in order."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once; a request that is under way fails."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        # uvloop's are none by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        if self._pending is None:
            # Nobody asked.
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._finish(Answer(failure=f"the answer is no HTTP ({error})"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        self.has_ended = True
        if exc is None and self._head_is_complete and not self._has_length:
            # Such a body ends with the connection.
            self._finish(self._answer())
        else:
            self._finish(Answer(failure=_CLOSED))
        self._gone(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of httptools' protocol."""
        name = name.lower()
        if name == b"server-timing":
            self._server_timing += b", " + value if self._server_timing else value
        elif name in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        """Part of httptools' protocol."""
        self._head_is_complete = True

    def on_body(self, body: bytes) -> None:
        """Part of httptools' protocol."""
        if len(self._excerpt) < _EXCERPT_BYTES and self._parser.get_status_code() >= 300:
            self._excerpt += body[:_EXCERPT_BYTES]

    def on_message_complete(self) -> None:
        """Part of httptools' protocol."""
        if self._parser.get_status_code() < 200:
            # 100 Continue and 103 Early Hints: the answer is still to come.
            self._forget()
            return
        if self._pending is None:
            self.abort()
            return
        answer = self._answer()
        assert self._transport is not None
        # A server that answers before it has read the request has the rest of it before it.
        is_written = not self._transport.get_write_buffer_size()
        reusable = self._parser.should_keep_alive() and is_written
        self._forget()
        if reusable:
            pending, self._pending = self._pending, None
            self.idle_since_s = time.perf_counter()
            self._free(self)
            pending.finish(answer)
        else:
            self._finish(answer)
            self.close()

    def _answer(self) -> Answer:
        excerpt = self._excerpt[:_EXCERPT_BYTES].decode("utf-8", "replace")
        return Answer(self._parser.get_status_code(), None, self._server_timing, excerpt)

    def _finish(self, answer: Answer) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.finish(answer)

    def _forget(self) -> None:
        """Make ready for the next answer."""
        self._server_timing = b""
        self._excerpt = b""
        self._has_length = False
        self._head_is_complete = False


class ConnectionPool:
    """Opens connections to one address as they are needed, at most so many, and keeps them."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 1000,
        timeout_s: float = 30.0,
    ) -> None:
        """After `timeout_s` a request without an answer has failed and its connection is ended."""
        self._host = host
        self._port = port
        self._tls = tls
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._address: tuple[str, int] | None = None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        #: Open, or being opened.
        self._num_taken = 0
        self._all_gone = asyncio.Event()

    async def find_address(self) -> None:
        """Find which of the host's addresses listens, so that no request need try several.

        Raises CannotConnect.
        """
        loop = asyncio.get_running_loop()
        where = f"{self._host}:{self._port}"
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise CannotConnect(f"cannot find {self._host}: {error.strerror}") from None
        failure = "it has no address"
        for *_, address in found:
            self._address = (str(address[0]), int(address[1]))
            try:
                connection = await asyncio.wait_for(self._connect(), self._timeout_s)
            except TimeoutError:
                failure = f"no connection within {self._timeout_s:g} s"
            except OSError as error:
                failure = _reason(error)
            else:
                self._idle.append(connection)
                connection.idle_since_s = time.perf_counter()
                return
        raise CannotConnect(f"cannot connect to {where}: {failure}; is the server running there?")

    def send(self, request: bytes, done: Done) -> bool:
        """Send at once, on an idle connection or a new one; False where there may be no more.

        `done` is called exactly once, from the event loop, unless False was returned.
        """
        connection = self._take_idle()
        if connection is not None:
            connection.ask(_Pending(request, done, self._timeout_s))
            return True
        if self._num_taken >= self._max_connections:
            return False
        pending = _Pending(request, done, self._timeout_s)
        task = asyncio.get_running_loop().create_task(self._connect_and_ask(pending))
        pending.give_up = task.cancel
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def close(self) -> None:
        """End every connection, and wait until they are ended."""
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        while self._open:
            self._all_gone.clear()
            for connection in self._open:
                connection.abort()
            await self._all_gone.wait()

    def _take_idle(self) -> Connection | None:
        """The one that was used last: the others may end meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if time.perf_counter() - connection.idle_since_s > _MAX_IDLE_S:
                connection.close()
            elif connection.is_usable:
                return connection
        return None

    async def _connect(self) -> Connection:
        assert self._address is not None, "find_address() comes first"
        connection = Connection(self._idle.append, self._lost)
        self._num_taken += 1
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                *self._address,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        except BaseException:
            # Cancelled as well: the place is free again.
            self._num_taken -= 1
            raise
        if connection.has_ended:
            self._num_taken -= 1
        else:
            self._open.add(connection)
        return connection

    async def _connect_and_ask(self, pending: _Pending) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            pending.finish(Answer(failure=f"cannot connect: {_reason(error)}"))
        else:
            connection.ask(pending)

    def _lost(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        if connection in self._open:
            self._open.remove(connection)
            self._num_taken -= 1
        if not self._open:
            self._all_gone.set()


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}; --insecure takes any)"
    if isinstance(error, ssl.SSLError):
        return f"no TLS ({error.reason or error})"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__
