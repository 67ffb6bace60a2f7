"""What waits in a queue and what comes back: a picture and its reply, a batch and its rows."""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.runtime.base import Outputs
from service.scheduler.queue import QueuedRequest
from service.telemetry import DispatchReason


@dataclass(frozen=True)
class InferenceRow:
    """What one request gets of its batch: its row of every output, and how it went."""

    outputs: Mapping[str, NDArray[np.generic]]
    batch_size: int
    queue_s: float
    infer_s: float
    reason: DispatchReason


@dataclass(eq=False)
class Waiting:
    """Who waits for an answer, and the picture once it is decoded.

    `ready_at_s` is when it came to be: from then on it waits for the engine. `reason` is why its
    batch ran; what is logged of it is logged in its request's `context`.
    """

    reply: "asyncio.Future[InferenceRow]"
    image: NDArray[np.uint8] | None = None
    ready_at_s: float = 0.0
    context: Context = field(default_factory=copy_context)
    reason: DispatchReason = "idle"


Batch = list[QueuedRequest[Waiting]]


def images_of(batch: Batch) -> list[NDArray[np.uint8]]:
    """The pictures of a batch."""
    images = [each.payload.image for each in batch if each.payload.image is not None]
    assert len(images) == len(batch), "a picture ran before it was decoded"
    return images


def stacked(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One batch: the only copy of its pictures, and none of a single one."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def answer(batch: Batch, outputs: Outputs, started_s: float, infer_s: float) -> None:
    """Give each request of a batch its own row; one that was cancelled meanwhile gets none."""
    for row, request in enumerate(batch):
        if not request.payload.reply.done():
            request.payload.reply.set_result(
                InferenceRow(
                    outputs={name: values[row] for name, values in outputs.items()},
                    batch_size=len(batch),
                    queue_s=started_s - request.payload.ready_at_s,
                    infer_s=infer_s,
                    reason=request.payload.reason,
                )
            )


def fail(batch: Batch, error: Exception) -> None:
    """Give every request of a batch that still waits an error."""
    for request in batch:
        if not request.payload.reply.done():
            request.payload.reply.set_exception(error)
