"""`rtmdet serve` as a process of its own, with the fake runtime, and raw connections to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.conftest import PROJECT

#: Far longer than anything takes; a test that waits so long has failed.
PATIENCE_S = 30


@dataclass
class Lines:
    """What a process writes to a pipe, line by line, as it comes."""

    pipe: IO[str]
    lines: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ended: bool = False

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, times: int = 1) -> str:
        """The line with `text` that comes for the `times`-th time."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= times or self._ended, PATIENCE_S)
            assert len(found()) >= times, f"no '{text}' in: {self.lines}"
            return found()[times - 1]

    def all(self) -> list[str]:
        """Everything, once the process has ended."""
        self._reader.join(PATIENCE_S)
        return self.lines

    def _read(self) -> None:
        with self.pipe:
            for line in self.pipe:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass
class ServingProcess:
    """The process, its log, its stdout; its port once `ready`."""

    process: subprocess.Popen[str]
    log: Lines
    stdout: Lines
    port: int = 0

    def wait_until_ready(self) -> None:
        found = re.search(r"ready: https?://.*:(\d+)/detect", self.log.wait_for("ready: "))
        assert found is not None
        self.port = int(found[1])

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=PATIENCE_S, source_address=(source, 0)
        )

    def stop(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def release(self) -> None:
        """Let calls end that `tests.held_serving` holds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)


@contextmanager
def serving_process(
    repository: Path, *, program: tuple[str, ...] = ("rtmdet", "serve"), **settings: object
) -> Iterator[ServingProcess]:
    """Start a server on a free port, by settings such as `max_connections=4`; kill it at last."""
    given = {
        "port": 0,
        "model_repository": repository,
        "runtime": "fake",
        "drain_delay_ms": 0,
        "log_format": "text",
    }
    environment = {
        f"RTMDET_{name.upper()}": str(value) for name, value in (given | settings).items()
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *program],
        cwd=PROJECT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdin is not None
    serving = ServingProcess(process, Lines(process.stderr), Lines(process.stdout))
    try:
        yield serving
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdin.close()
        serving.log.all()
        serving.stdout.all()


@contextmanager
def ready_server(repository: Path, **settings: object) -> Iterator[ServingProcess]:
    """A server that answers."""
    with serving_process(repository, **settings) as serving:
        serving.wait_until_ready()
        yield serving


@contextmanager
def held_server(repository: Path, **settings: object) -> Iterator[ServingProcess]:
    """A server whose calls of the runtime do not end before `release`."""
    program = ("tests.held_serving", "calls")
    with serving_process(repository, program=program, **settings) as serving:
        serving.wait_until_ready()
        yield serving


def wait_until(is_true: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(PATIENCE_S * 100):
        if is_true():
            return
        event.wait(0.01)
    raise TimeoutError


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes; a reset after it is an end too."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of one answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError(f"closed after {received!r}")
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError("closed within the body")
        body += piece
    return int(first.split()[1]), headers, body


def get(path: str, *fields: str) -> bytes:
    """The bytes of a GET request."""
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *fields, "", "")).encode()


def post(content: bytes, *fields: str) -> bytes:
    """The bytes of a request for detections in a PNG."""
    head = (
        "POST /detect HTTP/1.1",
        "Host: localhost",
        "Content-Type: image/png",
        f"Content-Length: {len(content)}",
        *fields,
        "",
        "",
    )
    return "\r\n".join(head).encode() + content
