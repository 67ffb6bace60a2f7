"""Which waiting requests go next, and which are refused. Pure: given a clock's reading and what
batches take; no waiting, no threads.

A request goes before another by, in this order: its priority, one step higher for every
`ageing_s` that it has waited; how much its client has been given lately; its deadline. A batch is
as large as lets every member be done in time.
"""

import contextlib
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from service.detection import Priority
from service.scheduler.latency import LatencyModel
from service.scheduler.shares import Shares

Payload = TypeVar("Payload")

#: Steps of priority; 0 goes first.
RANK: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}

#: Who has waited so long goes a step higher.
AGEING_S = 2.0


@dataclass(eq=False)
class QueuedRequest(Generic[Payload]):
    """One waiting picture. Times are readings of the scheduler's clock, in seconds.

    `client` is who asked, for a fair share; all that name none are one. A request has its place
    from its arrival on; it runs once it `is_ready`, that is, decoded.
    """

    payload: Payload
    priority: Priority
    queued_at_s: float
    deadline_s: float
    client: str = ""
    is_ready: bool = True


@dataclass(frozen=True)
class Engine:
    """What batches run on: when each of its places is expected to be free, and what it takes.

    `free_at_s` are readings of the clock, one for each batch that can run at once; a place that
    is free now has any reading of the past. `num_competing` models take turns on these places.
    """

    max_batch_size: int
    latency: LatencyModel
    free_at_s: Sequence[float]
    num_competing: int = 1


class NextBatch(NamedTuple, Generic[Payload]):
    """What runs now, and what was given up: it can no longer be done in time, whatever runs."""

    members: list[QueuedRequest[Payload]]
    hopeless: list[QueuedRequest[Payload]]


class RequestQueue(Generic[Payload]):
    """Waiting requests of one model."""

    def __init__(self, max_waiting: int, *, ageing_s: float = AGEING_S) -> None:
        self._max_waiting = max_waiting
        self._ageing_s = ageing_s
        self._waiting: list[QueuedRequest[Payload]] = []
        self._shares = Shares()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._waiting) >= self._max_waiting

    @property
    def has_ready(self) -> bool:
        """Whether anything can run now."""
        return any(each.is_ready for each in self._waiting)

    @property
    def oldest_queued_at_s(self) -> float | None:
        """When the one that waits longest came."""
        return min((each.queued_at_s for each in self._waiting), default=None)

    def late_by_s(
        self,
        request: QueuedRequest[Payload],
        now_s: float,
        engine: Engine,
    ) -> float:
        """How long after its deadline the answer to a new request would come; 0 if in time.

        Counts what would go before it, in full batches. What comes later and goes before it
        nevertheless is not known.
        """
        done_s = _done_s(self._num_ahead(request, now_s) + 1, now_s, engine)
        return max(done_s - request.deadline_s, 0.0)

    def push(self, request: QueuedRequest[Payload]) -> None:
        """Add a request; the caller has asked `is_full` and `late_by_s`."""
        self._shares.arrived(request.client)
        self._waiting.append(request)

    def displaced_by(self, client: str, now_s: float) -> QueuedRequest[Payload] | None:
        """Take out a request in whose place one of `client` may wait, of a queue that is full.

        It is the last one to run of the client with the most places, if that has at least two more
        than `client`: so none keeps the others out by asking for more. None where there is none.
        """
        places = Counter(each.client for each in self._waiting)
        greediest, most = max(places.items(), key=lambda item: item[1])
        if most < places[client] + 2:
            return None
        displaced = max(
            (each for each in self._waiting if each.client == greediest),
            key=lambda each: (self._level(each, now_s), each.deadline_s, each.queued_at_s),
        )
        self._waiting.remove(displaced)
        return displaced

    def next_batch(self, now_s: float, engine: Engine) -> NextBatch[Payload]:
        """Take out what runs next of what is ready, and what is hopeless."""
        alone_s = engine.latency.mean_s(1)
        hopeless: list[QueuedRequest[Payload]] = []
        possible: list[QueuedRequest[Payload]] = []
        for request in self._waiting:
            in_time = request.deadline_s > now_s and request.deadline_s >= now_s + alone_s
            (possible if in_time else hopeless).append(request)
        self._waiting = possible
        ordered = list(itertools.islice(self._order(now_s), engine.max_batch_size * 2))
        members = _largest_in_time(ordered, possible, now_s, engine)
        taken = set(map(id, members))
        self._waiting = [each for each in possible if id(each) not in taken]
        for request in members:
            self._shares.served(request.client)
        self._shares.forget(each.client for each in self._waiting)
        return NextBatch(members, hopeless)

    def discard(self, request: QueuedRequest[Payload]) -> None:
        """Nobody waits for the request any more; it may have gone already."""
        with contextlib.suppress(ValueError):
            # By identity: requests are compared by nothing else.
            self._waiting.remove(request)

    def drain(self) -> list[QueuedRequest[Payload]]:
        """Take out everything that still waits."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _num_ahead(self, request: QueuedRequest[Payload], now_s: float) -> int:
        """How many go before a new request: what is more urgent, and of the same level its own
        client's with less time, and the other clients' up to the same share."""
        level = self._level(request, now_s)
        ahead = own = 0
        others: dict[str, list[int]] = {}
        for each in self._waiting:
            theirs = self._level(each, now_s)
            if theirs > level:
                continue
            sooner = each.deadline_s <= request.deadline_s
            if theirs < level:
                ahead += 1
            elif each.client == request.client:
                own += sooner
            else:
                counts = others.setdefault(each.client, [0, 0])
                counts[0] += 1
                counts[1] += sooner
        for client, (waiting, sooner) in others.items():
            lead = own + int(self._shares.of(request.client) - self._shares.of(client))
            ahead += max(min(waiting, lead), min(sooner, lead + 1), 0)
        return ahead + own

    def _level(self, request: QueuedRequest[Payload], now_s: float) -> int:
        """0 goes first. Whoever waits long enough gets there."""
        steps = int((now_s - request.queued_at_s) / self._ageing_s)
        return max(RANK[request.priority] - steps, 0)

    def _order(self, now_s: float) -> Iterator[QueuedRequest[Payload]]:
        """All that are ready, in the order in which they go."""
        lines: dict[tuple[int, str], list[tuple[float, float, int]]] = {}
        for index, each in enumerate(self._waiting):
            if not each.is_ready:
                continue
            line = lines.setdefault((self._level(each, now_s), each.client), [])
            line.append((each.deadline_s, each.queued_at_s, index))
        shares = self._shares.copy()
        heads: list[tuple[int, float, tuple[float, float, int], str]] = []
        for (level, client), line in lines.items():
            heapq.heapify(line)
            heads.append((level, shares.of(client), line[0], client))
        heapq.heapify(heads)
        while heads:
            level, share, first, client = heapq.heappop(heads)
            line = lines[level, client]
            if share == shares.of(client):
                yield self._waiting[first[2]]
                shares.served(client)
                heapq.heappop(line)
            # The client may have been given something at another level since.
            if line:
                heapq.heappush(heads, (level, shares.of(client), line[0], client))


def _done_s(count: int, now_s: float, engine: Engine) -> float:
    """When the last of `count` pictures is done, which run in full batches, one after the other."""
    places = [max(free_s, now_s) for free_s in engine.free_at_s]
    heapq.heapify(places)
    done_s = now_s
    full, rest = divmod(count, engine.max_batch_size)
    for size, number in ((engine.max_batch_size, full), (rest, min(rest, 1))):
        seconds = engine.latency.high_s(size) if number else 0.0
        # Before the next of these batches each of the other models has a turn, as long as ours.
        until_next_s = engine.num_competing * seconds
        for _ in range(number):
            done_s = places[0] + seconds
            heapq.heapreplace(places, places[0] + until_next_s)
    return done_s


def _largest_in_time(
    ordered: list[QueuedRequest[Payload]],
    waiting: list[QueuedRequest[Payload]],
    now_s: float,
    engine: Engine,
) -> list[QueuedRequest[Payload]]:
    """The batch after which the fewest requests are lost; of several such the largest.

    Members keep their order, and none of them is made late by the batch's own size. A request with
    little time left allows nothing but a small batch, which wastes the engine where many wait: then
    it is left out, and lost, if that saves more of its priority.
    """
    if engine.max_batch_size == 1:
        # As on a processor: nothing to be weighed.
        done_s = now_s + engine.latency.high_s(1)
        return [each for each in ordered if each.deadline_s >= done_s][:1] or ordered[:1]
    by_deadline = sorted(waiting, key=lambda each: each.deadline_s)
    best, fewest = ordered[:1], None
    for size in _sizes(ordered, now_s, engine):
        done_s = now_s + engine.latency.high_s(size)
        members = [each for each in ordered if each.deadline_s >= done_s][:size]
        if len(members) == size:
            lost = _lost(by_deadline, members, done_s, engine)
            if fewest is None or lost < fewest:
                best, fewest = members, lost
            if not any(lost):
                break
    return best


def _sizes(ordered: list[QueuedRequest[Payload]], now_s: float, engine: Engine) -> Iterator[int]:
    """Sizes worth to be looked at, the largest first: all that can run, halves of that, and as
    many as leave nobody out."""
    largest = min(engine.max_batch_size, len(ordered))
    sizes = {largest >> halves for halves in range(largest.bit_length())}
    least_s, together = math.inf, 0
    for size, request in enumerate(ordered[:largest], 1):
        least_s = min(least_s, request.deadline_s)
        if least_s >= now_s + engine.latency.high_s(size):
            together = size
    return iter(sorted(sizes | {together} - {0}, reverse=True))


def _lost(
    by_deadline: list[QueuedRequest[Payload]],
    members: list[QueuedRequest[Payload]],
    done_s: float,
    engine: Engine,
) -> tuple[int, ...]:
    """How many of the others will be late if they follow in full batches, those of little time
    first; by priority, the highest first."""
    taken = set(map(id, members))
    others = [each for each in by_deadline if id(each) not in taken]
    batch_s = engine.latency.mean_s(min(max(len(others), 1), engine.max_batch_size))
    width = engine.max_batch_size * max(len(engine.free_at_s), 1)
    lost = [0] * len(RANK)
    in_time = 0
    for request in others:
        # What is late is given up, and takes nobody's place.
        if request.deadline_s < done_s + (in_time // width + 1) * batch_s:
            lost[RANK[request.priority]] += 1
        else:
            in_time += 1
    return tuple(lost)
