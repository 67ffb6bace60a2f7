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


async def post(app, query: bytes, body: bytes) -> int:
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
        "path": "/detect",
        "query_string": query,
        "scheme": "http",
        "headers": [(b"content-type", b"image/png")],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        pytest.param(b"timeout_ms=1", picture(), 504, id="in vain"),
        pytest.param(b"score_threshold=2", picture(), 422, id="wrong option"),
        pytest.param(b"", b"no picture", 400, id="no picture"),
    ],
)
def test_refused_request__leaves_no_garbage(
    detector: Detector, query: bytes, body: bytes, status: int
) -> None:
    app = create_app(detector, max_buffered_bytes=10**8)
    served = detector.registry.resolve(None)

    async def refuse_some() -> list[object]:
        detector.start()
        for _ in range(5):
            served.batcher._latency.alone.observe(1, 10.0)
        for _ in range(3):
            assert await post(app, query, body) == status
        await asyncio.sleep(0.05)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                assert await post(app, query, body) == status
            await asyncio.sleep(0.05)
            gc.collect()
            return [each for each in gc.garbage if isinstance(each, FrameType)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            await detector.stop()

    assert asyncio.run(refuse_some()) == []
