"""A request that is refused leaves nothing that only a search for garbage would find."""

import asyncio
import gc
from pathlib import Path
from types import FrameType

import pytest

from service.detector import Detector
from service.http_api.app import create_app
from tests.fake_serving import fake_detector, picture


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return fake_detector(tmp_path)


FORM = "multipart/form-data; boundary=b"


def form(*pictures: bytes) -> bytes:
    parts = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n%b\r\n'
        % each
        for each in pictures
    )
    return b"".join(parts) + b"--b--\r\n"


async def post(app, path: str, query: bytes, content_type: str, body: bytes) -> int:
    """A request without a server, whose buffers would be in the way."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message) -> None:
        statuses.append(message.get("status", 0))

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": query,
        "scheme": "http",
        "headers": [(b"content-type", content_type.encode())],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(
    ("path", "query", "content_type", "body", "status"),
    [
        pytest.param("/detect", b"timeout_ms=1", "image/png", picture(), 504, id="in vain"),
        pytest.param("/detect", b"score_threshold=2", "image/png", picture(), 422, id="option"),
        pytest.param("/detect", b"", "image/png", b"no picture", 400, id="no picture"),
        pytest.param(
            "/detect:batch", b"timeout_ms=1", FORM, form(picture(), picture()), 504, id="batch"
        ),
        pytest.param(
            "/detect:batch", b"", FORM, form(picture(), b"none", b"none"), 200, id="part of a batch"
        ),
    ],
)
def test_refused_request__leaves_no_garbage(
    detector: Detector, path: str, query: bytes, content_type: str, body: bytes, status: int
) -> None:
    request = (path, query, content_type, body)
    app = create_app(detector, max_buffered_bytes=10**8)
    served = detector.registry.resolve(None)

    async def refuse_some() -> list[object]:
        detector.start()
        for _ in range(5):
            served.batcher._latency.alone.observe(1, 10.0)
        for _ in range(3):
            assert await post(app, *request) == status
        await asyncio.sleep(0.05)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                assert await post(app, *request) == status
            await asyncio.sleep(0.05)
            gc.collect()
            return [each for each in gc.garbage if isinstance(each, FrameType)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            await detector.stop()

    assert asyncio.run(refuse_some()) == []
