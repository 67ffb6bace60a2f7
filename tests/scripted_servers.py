"""Servers that answer what a test tells them to, and note what they were sent."""

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qs

from tests.servers import running_server

#: What the service answers to a picture, with one detection of each kind of member.
DETECTED = {
    "id": "req_1",
    "model": {"name": "boxes", "version": "1", "task": "detect"},
    "image": {"width": 6, "height": 4},
    "detections": [{"label": "car", "class_id": 1, "score": 0.9, "box": [1.0, 1.0, 3.0, 3.5]}],
    "timings_ms": {"decode": 1.0, "queue": 0.5, "infer": 7.25, "postprocess": 0.5, "total": 9.25},
    "batch": {"size": 2},
}


@dataclass(frozen=True)
class Scripted:
    status: int
    body: bytes
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def as_json(document: object, status: int = 200, **headers: str) -> Scripted:
    return Scripted(status, json.dumps(document).encode(), headers=headers)


def problem(status: int, code: str, detail: str = "do this", **members: object) -> Scripted:
    document = {
        "type": f"/problems/{code}",
        "title": code,
        "status": status,
        "detail": detail,
        "instance": "/detect",
        "code": code,
        "request_id": "req_server",
        **members,
    }
    return Scripted(status, json.dumps(document).encode(), "application/problem+json")


def page(status: int, **headers: str) -> Scripted:
    return Scripted(status, b"<html>", "text/html", headers)


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    port: int

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """Names and contents of a form's parts, in order."""
        header = Message()
        header["Content-Type"] = self.headers["content-type"]
        boundary = f"--{header.get_param('boundary')}".encode()
        parts = []
        for part in self.body.split(boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            name = head.decode().partition(' name="')[2].partition('"')[0]
            parts.append((name, content.removesuffix(b"\r\n")))
        return parts


class ScriptedApp:
    """An ASGI app that gives one answer after the other; the last one again and again."""

    def __init__(self, *answers: Scripted) -> None:
        self.answer_with(*answers)

    def answer_with(self, *answers: Scripted) -> None:
        """Begin anew with these."""
        self._answers = deque(answers)
        self.seen: list[Seen] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = parse_qs(scope["query_string"].decode(), keep_blank_values=True)
        port = scope["client"][1]
        self.seen.append(Seen(scope["method"], scope["path"], query, headers, body, port))
        answer = self._answers.popleft() if len(self._answers) > 1 else self._answers[0]
        sent = {"content-type": answer.media_type} | answer.headers
        sent_headers = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
        start = {"type": "http.response.start", "status": answer.status, "headers": sent_headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})


#: Has a running server give these answers; its address, and what it sees from then on.
Script = Callable[..., tuple[str, list[Seen]]]


@contextmanager
def scripted_server() -> Iterator[Script]:
    """A server that is told anew what to answer, as often as one likes."""
    app = ScriptedApp()

    def script(*answers: Scripted) -> tuple[str, list[Seen]]:
        app.answer_with(*answers)
        return str(client.base_url), app.seen

    with running_server(app) as client:  # pyright: ignore[reportArgumentType]
        yield script


#: Serves one connection; the request is the first thing to be read from it.
Conversation = Callable[[socket.socket], None]


@contextmanager
def conversing(*conversations: Conversation) -> Iterator[str]:
    """The address of a server that holds these conversations, one connection after the other.

    After the last one it accepts nobody.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for conversation in conversations:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    conversation(connection)
        listener.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        assert not thread.is_alive()
        listener.close()


def read_request(connection: socket.socket) -> bytes:
    """One whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    lengths = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length")]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def http_answer(document: object = DETECTED) -> bytes:
    """As the wire has it; the connection stays open."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body
