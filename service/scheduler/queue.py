"""Which waiting requests go next. Pure: given a clock's reading, no waiting, no threads."""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.detection import Priority

Payload = TypeVar("Payload")

_RANK: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


@dataclass(eq=False)
class QueuedRequest(Generic[Payload]):
    """One waiting picture. Times are readings of the scheduler's clock, in seconds."""

    payload: Payload
    priority: Priority
    queued_at_s: float
    deadline_s: float
    cancelled: bool = field(default=False)


class RequestQueue(Generic[Payload]):
    """Waiting requests of one model: by priority, then in the order of arrival."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._order = itertools.count()
        self._heap: list[tuple[int, int, QueuedRequest[Payload]]] = []

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._heap) >= self._max_waiting

    def push(self, request: QueuedRequest[Payload]) -> None:
        """Add a request; the caller has asked `is_full`."""
        heapq.heappush(self._heap, (_RANK[request.priority], next(self._order), request))

    def next_batch(
        self, max_size: int, now_s: float
    ) -> tuple[list[QueuedRequest[Payload]], list[QueuedRequest[Payload]]]:
        """The next batch, and those that were passed over because their deadline is over.

        Cancelled requests vanish here: nobody waits for them.
        """
        batch: list[QueuedRequest[Payload]] = []
        expired: list[QueuedRequest[Payload]] = []
        while self._heap and len(batch) < max_size:
            request = heapq.heappop(self._heap)[2]
            if request.cancelled:
                continue
            (expired if request.deadline_s <= now_s else batch).append(request)
        return batch, expired

    def drain(self) -> list[QueuedRequest[Payload]]:
        """Take out everything that still waits."""
        waiting = [request for _, _, request in self._heap if not request.cancelled]
        self._heap.clear()
        return waiting
