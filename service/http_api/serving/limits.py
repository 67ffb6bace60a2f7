"""What one connection, and all of them together, may take of the server."""

from dataclasses import dataclass

from service.settings import Settings

#: Below this a transfer counts as stuck: once its time is up, a body that arrives and an answer
#: that leaves get a further second for every so many bytes. One megabit per second.
MIN_BYTES_PER_SECOND = 128 * 1024

#: Requests that a client may send ahead of their answers. Hardly any client sends one.
MAX_PIPELINED = 16

#: Past a deadline that the application keeps itself (it answers better), the connection waits so
#: long before it acts.
BACKSTOP_S = 5.0

#: How long a client that was told off, or a TLS client, has to close its side.
LINGER_S = 2.0


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds of connections; times in seconds."""

    max_connections: int
    max_per_client: int
    max_header_bytes: int
    max_headers: int
    header_s: float
    body_s: float
    write_s: float
    idle_s: float

    @property
    def sweep_s(self) -> float:
        """How often connections are looked at, for times to be kept to about a tenth."""
        shortest_s = min(self.header_s, self.body_s, self.write_s, self.idle_s)
        return min(1.0, max(0.02, shortest_s / 10))


def connection_limits(settings: Settings) -> ConnectionLimits:
    """The limits that the settings ask for."""
    return ConnectionLimits(
        max_connections=settings.max_connections,
        max_per_client=settings.max_connections_per_client,
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        header_s=settings.header_timeout_ms / 1000,
        body_s=settings.body_timeout_ms / 1000,
        write_s=settings.write_timeout_ms / 1000,
        idle_s=settings.idle_timeout_ms / 1000,
    )


def credited_until_s(until_s: float, num_bytes: int, allowed_s: float, now_s: float) -> float:
    """Until when a transfer may take that might take until `until_s`, now that so many bytes came.

    Bytes earn time, but never more than `allowed_s` ahead: a burst is no leave to be silent long.
    """
    return min(until_s + num_bytes / MIN_BYTES_PER_SECOND, now_s + allowed_s)


def transfer_s(allowed_s: float, num_bytes: int) -> float:
    """How long a transfer of which `num_bytes` are known may take."""
    return allowed_s + num_bytes / MIN_BYTES_PER_SECOND
