"""A light client on plain sockets that can send anything, and go away at any moment."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

_MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class RawRequest:
    """What is sent; `target` is the path with its query. The length is filled in."""

    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def encoded(self) -> bytes:
        """The bytes of the message."""
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.method == "POST":
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join((*lines, "", "")).encode("latin-1") + self.body


@dataclass(frozen=True)
class RawAnswer:
    """What came back."""

    status: int
    media_type: str
    body: bytes


class RawConnection:
    """A connection that is kept open between requests, and opened again where it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: RawRequest, timeout_s: float) -> RawAnswer:
        """Send a request and read its answer.

        Raises TimeoutError, and ConnectionError where there is none.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(request)
        except asyncio.IncompleteReadError as error:
            self.close()
            raise ConnectionError(f"no answer: {error!r}") from error
        except BaseException:
            self.close()
            raise

    async def abandon(self, request: RawRequest, num_bytes: int, after_s: float) -> None:
        """Send the first bytes of a request, wait, and go away."""
        _, writer = await self._open()
        try:
            writer.write(request.encoded()[:num_bytes])
            await writer.drain()
            await asyncio.sleep(after_s)
        except ConnectionError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection at once, whatever is under way."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=_MOST_BYTES
            )
        return self._streams

    async def _exchange(self, request: RawRequest) -> RawAnswer:
        reader, writer = await self._open()
        writer.write(request.encoded())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])
        }
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        if fields.get("connection", "").lower() == "close":
            self.close()
        media_type = fields.get("content-type", "").partition(";")[0]
        return RawAnswer(int(head[0].split()[1]), media_type, body)


def with_options(path: str, options: Mapping[str, str]) -> str:
    """A path with a query."""
    return f"{path}?{urlencode(options)}" if options else path
