"""A real HTTP server of one file, which can be told to misbehave as servers and networks do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What it serves, how it behaves, and what it was asked.

    `cuts` are the numbers of bytes after which the next answers break off; `statuses` are errors
    that it answers with first. `requests` are the headers that came, `bytes_sent` what went out.
    """

    content: bytes
    url: str = ""
    etag: str | None = '"v1"'
    last_modified: str | None = None
    takes_ranges: bool = True
    says_length: bool = True
    redirect: str | None = None
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bytes_sent: int = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one GET."""
        self.requests.append(dict(handler.headers.items()))
        self.paths.append(handler.path)
        if self.statuses:
            self._finish(handler, self.statuses.pop(0), {"Content-Length": "0"})
        elif self.redirect:
            self._finish(handler, 302, {"Location": self.redirect, "Content-Length": "0"})
        else:
            self._send_file(handler)

    def _send_file(self, handler: BaseHTTPRequestHandler) -> None:
        begin, total = self._begin(handler), len(self.content)
        if begin >= total:
            headers = {"Content-Range": f"bytes */{total}", "Content-Length": "0"}
            self._finish(handler, 416, headers)
            return
        headers = {"Content-Range": f"bytes {begin}-{total - 1}/{total}"} if begin else {}
        if self.says_length:
            headers["Content-Length"] = str(total - begin)
        if self.etag:
            headers["ETag"] = self.etag
        if self.last_modified:
            headers["Last-Modified"] = self.last_modified
        end = begin + self.cuts.pop(0) if self.cuts else total
        self._finish(handler, 206 if begin else 200, headers, self.content[begin:end])

    def _begin(self, handler: BaseHTTPRequestHandler) -> int:
        wanted = handler.headers.get("Range")
        condition = handler.headers.get("If-Range")
        if not (wanted and self.takes_ranges):
            return 0
        if condition is not None and condition not in (self.etag, self.last_modified):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def _finish(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes = b"",
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        self.bytes_sent += len(body)


@contextmanager
def serving(content: bytes, **behaviour: Any) -> Iterator[FileServer]:
    """A running server of `content` on this machine; stopped at the end."""
    served = FileServer(content, **behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
