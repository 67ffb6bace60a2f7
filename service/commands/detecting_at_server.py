"""`rtmdet detect --server`: sends the pictures to a server, several at once."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service.client import (
    AsyncClient,
    BadAnswer,
    ClientError,
    ConnectionFailed,
    Forbidden,
    TimedOut,
    Unauthenticated,
)
from service.client.options import DetectOptions as ClientOptions
from service.commands.detecting import (
    PictureFailed,
    listing,
    print_in_order,
    read_picture,
    shown,
    write_drawn,
)
from service.detection import DetectOptions

# Enough that the server always has one to decode and one to infer.
_AT_ONCE = 8

# A slow line may need long for a large picture; the server has a limit of its own.
_TIMEOUT_S = 120.0


class ServerUnusable(ValueError):
    """No picture will fare better than this one did: the address or the key is wrong."""


async def detect_at_server(
    server: str,
    api_key: str | None,
    images: Sequence[Path],
    options: DetectOptions,
    *,
    out: Path | None,
    as_json: bool,
) -> int:
    """Detect in several pictures at once; how many failed. Raises ServerUnusable."""
    asked = _asked(options)

    async def detect_one(path: Path, drawn_path: Path | None) -> str:
        try:
            picture = await _sendable(path, client)
            result = await client.detect(picture, **asked)
            if drawn_path is not None:
                write_drawn(drawn_path, await client.draw(picture, **asked))
        except ClientError as error:
            raise _judged(error) from error
        if as_json:
            return replace(result, id=shown(path)).to_json()
        return listing(
            path,
            result.detections,
            drawn_path,
            model_name=result.model.name,
            total_ms=result.timings_ms.total,
        )

    async with AsyncClient(server, api_key=api_key, timeout_s=_TIMEOUT_S) as client:
        return await print_in_order(images, out, detect_one, at_once=_AT_ONCE)


async def _sendable(path: Path, client: AsyncClient) -> Path | bytes:
    """A file is sent from where it lies. Pipes and devices can be read once, and need not end."""
    if path.is_file() or not path.exists():
        return path
    max_bytes = (await client.limits()).max_image_bytes
    return await asyncio.to_thread(read_picture, path, max_bytes)


def _asked(options: DetectOptions) -> ClientOptions:
    return {
        "model": options.model,
        "score_threshold": options.score_threshold,
        "iou_threshold": options.iou_threshold,
        "max_detections": options.max_detections,
        "classes": options.classes,
        "mask_format": options.mask_format,
    }


def _judged(error: ClientError) -> PictureFailed | ServerUnusable:
    if isinstance(error, TimedOut):
        return PictureFailed(str(error))
    if isinstance(error, Unauthenticated):
        return ServerUnusable(f"{error}; give the key by --api-key or RTMDET_API_KEY")
    if isinstance(error, ConnectionFailed | BadAnswer | Forbidden):
        return ServerUnusable(str(error))
    return PictureFailed(str(error))
