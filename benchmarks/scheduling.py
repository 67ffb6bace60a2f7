"""The queue's policy beside plain ones, in a simulation: what is answered in time under overload.

    python -m benchmarks.scheduling

An engine that takes 0.5 ms and 0.4 ms a picture (batches up to 16: 2,319 pictures/s), requests
that must be answered within 50 ms, arriving as a Poisson process or in bursts, at half to four
times of what the engine can do. Prints goodput (answers in time, as a share of what the engine
can do, or of what was asked where that is less) and the 99th percentile of what was answered.
Time is simulated: the figures are the same on every machine.
"""

import argparse
import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from service.scheduler.latency import LatencyModel
from service.scheduler.queue import Engine, QueuedRequest, RequestQueue

CALL_S, PICTURE_S = 0.0005, 0.0004
MAX_BATCH_SIZE = 16
TIMEOUT_S = 0.050
CAPACITY = MAX_BATCH_SIZE / (CALL_S + PICTURE_S * MAX_BATCH_SIZE)
#: What a batch takes varies by so much, as on a real engine.
JITTER = 0.05
#: A burst has so many pictures on average.
BURST = 64
MAX_WAITING = 512


@dataclass
class Outcome:
    """What became of the requests of one run."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    given_up: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def answered(self, arrived_s: float, done_s: float) -> None:
        """A request got its answer."""
        self.latencies_s.append(done_s - arrived_s)
        if done_s - arrived_s <= TIMEOUT_S:
            self.in_time += 1
        else:
            self.late += 1

    def percentile_ms(self, share: float) -> float:
        """Of the latencies of what was answered."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class Policy(Protocol):
    """Decides what waits and what runs."""

    def arrive(self, now_s: float, free_at_s: float, outcome: Outcome) -> None:
        """A request comes; the engine is free at `free_at_s`."""
        ...

    def next_batch(self, now_s: float, outcome: Outcome) -> list[float]:
        """When the pictures that run now have come; none leaves the engine idle."""
        ...

    def wake_s(self, now_s: float) -> float | None:
        """When an idle engine should ask again though nothing comes."""
        ...

    def ran(self, size: int, seconds: float) -> None:
        """A batch ended."""
        ...


class Ours:
    """`service.scheduler`: refuses, gives up and sizes batches by deadlines."""

    def __init__(self) -> None:
        self._queue: RequestQueue[None] = RequestQueue(MAX_WAITING)
        self._latency = LatencyModel({size: CALL_S + PICTURE_S * size for size in (1, 4, 16)})

    def arrive(self, now_s: float, free_at_s: float, outcome: Outcome) -> None:
        """Refuse what could not be in time; the others wait."""
        request = QueuedRequest(None, "normal", now_s, now_s + TIMEOUT_S)
        engine = Engine(MAX_BATCH_SIZE, self._latency, [free_at_s])
        if self._queue.is_full or self._queue.late_by_s(request, now_s, engine) > 0:
            outcome.refused += 1
        else:
            self._queue.push(request)

    def next_batch(self, now_s: float, outcome: Outcome) -> list[float]:
        """Ask the queue."""
        engine = Engine(MAX_BATCH_SIZE, self._latency, [now_s])
        batch = self._queue.next_batch(now_s, engine)
        outcome.given_up += len(batch.hopeless)
        return [request.queued_at_s for request in batch.members]

    def wake_s(self, now_s: float) -> float | None:
        """An idle engine has nothing to wait for."""
        return None

    def ran(self, size: int, seconds: float) -> None:
        """Learn from it."""
        self._latency.observe(size, seconds)


class FirstInFirstOut:
    """A bounded queue in the order of arrival, as servers have that know no deadlines.

    With `gathers_s` an idle engine waits that long for a full batch.
    """

    def __init__(self, gathers_s: float = 0.0) -> None:
        self._waiting: deque[float] = deque()
        self._gathers_s = gathers_s

    def arrive(self, now_s: float, free_at_s: float, outcome: Outcome) -> None:
        """Refuse only where the queue is full."""
        if len(self._waiting) >= MAX_WAITING:
            outcome.refused += 1
        else:
            self._waiting.append(now_s)

    def next_batch(self, now_s: float, outcome: Outcome) -> list[float]:
        """The first that came, a full batch or what there is when the time to gather is over."""
        wake_s = self.wake_s(now_s)
        if wake_s is not None and wake_s > now_s:
            return []
        size = min(len(self._waiting), MAX_BATCH_SIZE)
        return [self._waiting.popleft() for _ in range(size)]

    def wake_s(self, now_s: float) -> float | None:
        """When the time to gather is over."""
        if not self._waiting or len(self._waiting) >= MAX_BATCH_SIZE:
            return None
        return self._waiting[0] + self._gathers_s

    def ran(self, size: int, seconds: float) -> None:
        """Nothing is learnt."""


def poisson(rate: float, duration_s: float, rng: random.Random) -> Iterator[float]:
    """Times of arrival, independent of each other."""
    now_s = rng.expovariate(rate)
    while now_s < duration_s:
        yield now_s
        now_s += rng.expovariate(rate)


def bursts(rate: float, duration_s: float, rng: random.Random) -> Iterator[float]:
    """The same rate in bursts of `BURST` pictures within two milliseconds."""
    arrivals = (
        start_s + rng.uniform(0, 0.002)
        for start_s in poisson(rate / BURST, duration_s, rng)
        for _ in range(rng.randint(1, 2 * BURST - 1))
    )
    return iter(sorted(arrivals))


def simulate(policy: Policy, arrivals: list[float], rng: random.Random) -> Outcome:
    """Run one engine over the arrivals, to the last answer."""
    outcome = Outcome()
    events: list[tuple[float, int, int]] = [(at_s, 1, 0) for at_s in arrivals]
    heapq.heapify(events)
    running: tuple[list[float], float] | None = None
    free_at_s = 0.0
    while events:
        now_s, kind, _ = heapq.heappop(events)
        if kind == 1:
            policy.arrive(now_s, free_at_s, outcome)
        elif kind == 0:
            assert running is not None
            members, started_s = running
            policy.ran(len(members), now_s - started_s)
            for arrived_s in members:
                outcome.answered(arrived_s, now_s)
            running = None
        if running is None and (members := policy.next_batch(now_s, outcome)):
            seconds = (CALL_S + PICTURE_S * len(members)) * rng.uniform(1 - JITTER, 1 + JITTER)
            running, free_at_s = (members, now_s), now_s + seconds
            heapq.heappush(events, (free_at_s, 0, 0))
        elif running is None and (wake_s := policy.wake_s(now_s)) is not None:
            heapq.heappush(events, (max(wake_s, now_s + 1e-9), 2, 0))
    return outcome


POLICIES: dict[str, Callable[[], Policy]] = {
    "ours": Ours,
    "FIFO, takes what waits": FirstInFirstOut,
    "FIFO, gathers for 5 ms": lambda: FirstInFirstOut(0.005),
}


def main() -> None:
    """Print one table for each kind of arrivals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="simulated, for each cell")
    seconds = parser.parse_args().seconds
    for name, arrivals_of in {"Poisson": poisson, "bursts of 64": bursts}.items():
        print(f"\n{name}: goodput, p99 ms (refused, given up, late)")
        for policy_name, make in POLICIES.items():
            cells = []
            for load in (0.5, 1, 2, 4):
                rng = random.Random(0)
                arrivals = list(arrivals_of(load * CAPACITY, seconds, rng))
                outcome = simulate(make(), arrivals, rng)
                possible = min(len(arrivals), CAPACITY * seconds)
                cells.append(
                    f"{load}x {outcome.in_time / possible:.3f}, {outcome.percentile_ms(0.99):.1f} "
                    f"({outcome.refused}, {outcome.given_up}, {outcome.late})"
                )
            print(f"  {policy_name:<24}" + "   ".join(cells))


if __name__ == "__main__":
    main()
