"""Accepts connections: each is known before anything is spent on it, a TLS handshake included."""

import asyncio
import contextlib
import ctypes
import errno
import logging
import socket
import struct
from collections import deque
from http import HTTPStatus

from service.http_api.serving.connection import HttpConnection, Surroundings
from service.http_api.serving.connections import NoRoom
from service.http_api.serving.limits import LINGER_S
from service.http_api.serving.refusals import refusal_bytes
from service.http_api.serving.tls import ServerTls

logger = logging.getLogger(__name__)

_BACKLOG = 2048

#: Connections accepted before others get their turn on the event loop.
_AT_ONCE = 64

#: Sockets of clients that found no room, kept until they have read so.
_MAX_TURNED_AWAY = 64

#: How often it is logged that clients are turned away.
_LOG_EVERY_S = 10.0

#: How long handshakes that have begun have to end when the server closes.
_LAST_HANDSHAKES_S = 0.1

#: How long accepting rests when the process has no more descriptors.
_REST_S = 0.2

_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Listens on a bound socket and makes an `HttpConnection` of each connection."""

    def __init__(
        self, listener: socket.socket, around: Surroundings, tls: ServerTls | None
    ) -> None:
        self._listener = listener
        self._around = around
        self._tls = tls
        self._connecting: set[asyncio.Task[None]] = set()
        self._turned_away: deque[tuple[float, socket.socket]] = deque()
        self._num_turned_away = 0
        self._logged_at_s = float("-inf")

    def open(self) -> None:
        """Begin to listen and to accept."""
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._around.loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Stop listening so that no client that has connected is reset."""
        refuse_handshakes(self._listener)
        await asyncio.sleep(_LAST_HANDSHAKES_S)
        self._around.loop.remove_reader(self._listener)
        self._listener.close()

    def look_after(self, now_s: float) -> None:
        """Close what is left of clients that were turned away, and say that there were some."""
        while self._turned_away and now_s - self._turned_away[0][0] >= LINGER_S:
            self._turned_away.popleft()[1].close()
        if self._num_turned_away and now_s - self._logged_at_s >= _LOG_EVERY_S:
            logger.warning(
                "%d connections turned away: %d are open, and those that count are busy",
                self._num_turned_away,
                len(self._around.table),
            )
            self._num_turned_away = 0
            self._logged_at_s = now_s

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connected, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _NO_RESOURCES:
                    raise
                self._rest(error)
                return
            self._welcome(connected, str(address[0]))

    def _welcome(self, connected: socket.socket, address: str) -> None:
        around = self._around
        connected.setblocking(False)
        connection = HttpConnection(around)
        try:
            evicted = around.table.add(connection, address, around.loop.time())
        except NoRoom:
            self._turn_away(connected)
            return
        if evicted is not None:
            evicted.evict()
        connecting = around.loop.create_task(self._connect(connected, connection))
        connection.connecting = connecting
        self._connecting.add(connecting)

        def connected_or_not(_: asyncio.Task[None]) -> None:
            self._connecting.discard(connecting)
            if connection.transport is None:  # pyright: ignore[reportUnnecessaryComparison]
                around.table.remove(connection)
                connected.close()

        connecting.add_done_callback(connected_or_not)

    async def _connect(self, connected: socket.socket, connection: HttpConnection) -> None:
        loop = self._around.loop
        if self._tls is None:
            await loop.connect_accepted_socket(lambda: connection, connected)
            return
        try:
            await loop.connect_accepted_socket(
                lambda: connection,
                connected,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._around.limits.header_s,
                ssl_shutdown_timeout=LINGER_S,
            )
        except OSError as error:
            # No TLS, no client's certificate or an unknown one, too slow, gone.
            logger.debug("no TLS connection: %s", error)

    def _turn_away(self, connected: socket.socket) -> None:
        self._num_turned_away += 1
        if self._tls is not None:
            connected.close()
            return
        answer = refusal_bytes(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too many connections; try again later",
            self._around.state.default_headers,
        )
        with contextlib.suppress(OSError):
            connected.send(answer)
            connected.shutdown(socket.SHUT_WR)
        self._turned_away.append((self._around.loop.time(), connected))
        if len(self._turned_away) > _MAX_TURNED_AWAY:
            self._turned_away.popleft()[1].close()

    def _rest(self, error: OSError) -> None:
        logger.error("cannot accept connections: %s; raise the limit of open files", error.strerror)
        loop = self._around.loop
        loop.remove_reader(self._listener)
        loop.call_later(_REST_S, self._resume)

    def _resume(self) -> None:
        if self._listener.fileno() != -1:
            self._around.loop.add_reader(self._listener, self._accept)


def refuse_handshakes(listener: socket.socket) -> None:
    """Let the kernel drop the first packet of every new handshake.

    Closing a listening socket resets the connections that the kernel has completed and nobody has
    accepted; while new ones keep coming there are always some. A client whose packet is dropped
    asks again, and then nobody listens. Where the kernel does not allow it, a few clients may see
    a reset.
    """
    program = (
        (0x30, 0, 0, 13),  # the byte of the TCP header with the flags
        (0x45, 0, 1, 0x02),  # SYN?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # keep
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    attach_filter = 26
    with contextlib.suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET,
            attach_filter,
            struct.pack("HL", len(program), ctypes.addressof(code)),
        )
