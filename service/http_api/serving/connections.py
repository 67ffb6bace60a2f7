"""Who may have a connection. Pure policy: nothing here opens or closes one.

A connection either waits (its next request has not arrived: a new one, an idle one, one that
sends its head slowly) or is busy. When there is no room, the one that has waited longest makes
room; a busy one never does.
"""

import ipaddress
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

ConnectionT = TypeVar("ConnectionT")


class NoRoom(Exception):
    """Nobody can make room: every connection that counts is busy."""


class ConnectionTable(Generic[ConnectionT]):
    """Every open connection, whose it is, and which of them wait."""

    def __init__(
        self,
        *,
        max_connections: int,
        max_per_client: int,
        is_trusted: Callable[[str], bool],
    ) -> None:
        """`max_per_client` 0 is no limit; a trusted address (a proxy) has none either."""
        self._max_connections = max_connections
        self._max_per_client = max_per_client
        self._is_trusted = is_trusted
        self._clients: dict[ConnectionT, str] = {}
        self._counts: dict[str, int] = {}
        # Ordered by when the waiting began.
        self._waiting: dict[ConnectionT, float] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[ConnectionT]:
        """Over a copy: connections come and go meanwhile."""
        return iter(tuple(self._clients))

    def add(self, connection: ConnectionT, address: str, now_s: float) -> ConnectionT | None:
        """Enter a new connection, waiting. Gives one, struck off, that must be closed for it.

        Raises NoRoom.
        """
        client = client_of(address)
        evicted = self._make_room(client, address)
        self._clients[connection] = client
        self._counts[client] = self._counts.get(client, 0) + 1
        self._waiting[connection] = now_s
        return evicted

    def remove(self, connection: ConnectionT) -> None:
        """Strike a connection off; one that is not there is none."""
        self._waiting.pop(connection, None)
        client = self._clients.pop(connection, None)
        if client is None:
            return
        left = self._counts[client] - 1
        if left:
            self._counts[client] = left
        else:
            del self._counts[client]

    def busy(self, connection: ConnectionT) -> None:
        """A request has arrived."""
        self._waiting.pop(connection, None)

    def wait(self, connection: ConnectionT, now_s: float) -> None:
        """Everything is answered. One that was struck off stays so."""
        if connection in self._clients:
            self._waiting[connection] = now_s

    def waiting_since_s(self, connection: ConnectionT) -> float | None:
        """None where a request is being served."""
        return self._waiting.get(connection)

    def _make_room(self, client: str, address: str) -> ConnectionT | None:
        evicted = None
        if self._is_over(client) and not self._is_trusted(address):
            evicted = next((c for c in self._waiting if self._clients[c] == client), None)
        elif len(self._clients) >= self._max_connections:
            evicted = next(iter(self._waiting), None)
        else:
            return None
        if evicted is None:
            raise NoRoom
        self.remove(evicted)
        return evicted

    def _is_over(self, client: str) -> bool:
        return 0 < self._max_per_client <= self._counts.get(client, 0)


def client_of(address: str) -> str:
    """Who is behind an address: an IPv6 client commonly has a whole /64 to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
