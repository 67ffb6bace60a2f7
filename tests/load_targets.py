"""Small HTTP servers with known manners, on an event loop in a thread of their own."""

import asyncio
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    b'Server-Timing: decode;dur=2.5, infer;desc="the engine";dur=10, total;dur=13\r\n\r\n'
    b"5\r\nhello\r\n0\r\n\r\n"
)


@dataclass
class Target:
    """What a server does with a request; `answer` gives bytes, or None to close the connection.

    `requests` are the heads and bodies that came.
    """

    answer: Callable[["Target", int], Awaitable[bytes | None]]
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    num_connections: int = 0
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until somebody closes it."""
        self.num_connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(int(x[15:]) for x in lines if x.startswith(b"content-length:"))
                self.requests.append((head, await reader.readexactly(length)))
                content = await self.answer(self, len(self.requests) - 1)
                if content is None:
                    return
                writer.write(content)
                if b"content-length" not in content.lower() and b"chunked" not in content:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@contextmanager
def running(
    answer: Callable[[Target, int], Awaitable[bytes | None]], *, certificate: Path | None = None
) -> Iterator[Target]:
    """A server on a free port, with TLS where a certificate (with its key) is given."""
    target = Target(answer)
    ready = threading.Event()
    ended = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        tls = None
        if certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(certificate)
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await target.serve(reader, writer)
            except asyncio.CancelledError:
                pass
            finally:
                tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, backlog=1024)
        target.port = server.sockets[0].getsockname()[1]
        loops.append(asyncio.get_running_loop())
        ready.set()
        await ended.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield target
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


async def answers(target: Target, number: int) -> bytes:
    """Well, at once."""
    return OK


async def refuses(target: Target, number: int) -> bytes:
    """Every request."""
    return BUSY


async def closes(target: Target, number: int) -> None:
    """Every connection, without a word."""
    return


async def never_answers(target: Target, number: int) -> None:
    """Not at all."""
    await asyncio.Event().wait()


def stalls_once(
    number_of_request: int, seconds: float
) -> Callable[[Target, int], Awaitable[bytes]]:
    """Stands still, for everybody, when that request comes."""

    async def answer(target: Target, number: int) -> bytes:
        if number == number_of_request:
            time.sleep(seconds)
        return OK

    return answer
