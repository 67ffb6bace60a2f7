"""What one writes first: requests in a queue, first come first served, in batches of a fixed size.

    python -m benchmarks.rivals.fifo REPOSITORY PORT

A batch goes when it is full, or 5 ms after its first picture. Nothing is refused.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from starlette.datastructures import UploadFile
from starlette.responses import Response

from benchmarks.rivals.plain_detector import BATCH_WAIT_S, MAX_BATCH, PlainDetector, Prepared
from service.runtime.base import Outputs

Waiting = asyncio.Queue[tuple[Prepared, "asyncio.Future[Outputs]"]]


def create_app(detector: PlainDetector) -> FastAPI:
    """The application, with its one consumer of the queue."""
    waiting: Waiting = asyncio.Queue()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        consumer = asyncio.create_task(_consume(detector, waiting))
        yield
        consumer.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/detect")
    async def detect(request: Request) -> Response:
        async with request.form() as form:
            part = form["image"]
            assert isinstance(part, UploadFile)
            data = await part.read()
        prepared = await asyncio.to_thread(detector.prepare, data)
        reply: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        await waiting.put((prepared, reply))
        body = await asyncio.to_thread(detector.answer, await reply, prepared[1])
        return Response(body, media_type="application/json")

    return app


async def _consume(detector: PlainDetector, waiting: Waiting) -> None:
    while True:
        batch = [await waiting.get()]
        try:
            async with asyncio.timeout(BATCH_WAIT_S):
                while len(batch) < MAX_BATCH:
                    batch.append(await waiting.get())
        except TimeoutError:
            pass
        pictures = [pixels for (pixels, _), _ in batch]
        outputs = await asyncio.to_thread(detector.infer, pictures)
        for (_, reply), each in zip(batch, outputs, strict=True):
            if not reply.done():
                reply.set_result(each)


if __name__ == "__main__":
    repository, port = sys.argv[1:]
    app = create_app(PlainDetector(Path(repository)))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
