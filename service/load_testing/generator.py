"""The open loop: every request leaves at its time, whatever has become of those before it.

A closed loop, whose clients wait for their answers, asks less of a server exactly when it is slow,
and never measures what those waited who would have come meanwhile (coordinated omission).
`closed_loop` is here for what it is good for: finding what a server can do at most.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from service.load_testing.connections import ConnectionPool
from service.load_testing.exchanges import Answer, Exchange, Outcome

#: The event loop gets so much time to be ready for the first request.
_START_S = 0.05


@dataclass
class Tally:
    """How a run goes, for whoever watches it; what expired counts as refused here."""

    sent: int = 0
    ended: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0

    def count(self, outcome: Outcome) -> None:
        """One more request ended so."""
        self.ended += 1
        self.answered += outcome is Outcome.ANSWERED
        self.refused += outcome in (Outcome.REFUSED, Outcome.EXPIRED)
        self.failed += outcome in (Outcome.FAILED, Outcome.UNSENT)


@dataclass
class OpenLoop:
    """One run: `requests` in turn at `times_s` (ascending, seconds from the start)."""

    pool: ConnectionPool
    requests: Sequence[bytes]
    times_s: Sequence[float]
    tally: Tally = field(default_factory=Tally)
    _exchanges: list[Exchange | None] = field(default_factory=list[Exchange | None])

    async def run(self) -> list[Exchange]:
        """Send everything, wait for every answer or its time-out, and give all in order."""
        self._exchanges = [None] * len(self.times_s)
        self._began_s = time.perf_counter() + _START_S
        self._all_ended = asyncio.Event()
        turn = _in_turn(self.requests)
        for index, scheduled_s in enumerate(self.times_s):
            await _sleep_until(self._began_s + scheduled_s)
            self._send(index, scheduled_s, next(turn))
        while self.tally.ended < len(self.times_s):
            self._all_ended.clear()
            await self._all_ended.wait()
        return [each for each in self._exchanges if each is not None]

    def _send(self, index: int, scheduled_s: float, request: bytes) -> None:
        started_s = time.perf_counter() - self._began_s

        def done(answer: Answer | None) -> None:
            ended_s = time.perf_counter() - self._began_s
            exchange = Exchange(scheduled_s, started_s, ended_s, answer)
            self._exchanges[index] = exchange
            self.tally.count(exchange.outcome)
            if self.tally.ended == len(self.times_s):
                self._all_ended.set()

        self.tally.sent += 1
        if not self.pool.send(request, done):
            self.tally.sent -= 1
            done(None)


async def closed_loop(
    pool: ConnectionPool, requests: Sequence[bytes], *, num_clients: int, seconds: float
) -> list[Exchange]:
    """Clients that each send the next request when they have the answer, for so long.

    Here a request is scheduled when it is sent, so that latencies are what such a client sees.
    """
    began_s = time.perf_counter()
    exchanges: list[Exchange] = []
    turn = _in_turn(requests)
    ended = asyncio.get_running_loop().create_future()
    num_left = num_clients

    def ask() -> None:
        nonlocal num_left
        started_s = time.perf_counter() - began_s
        if started_s >= seconds:
            num_left -= 1
            if not num_left:
                ended.set_result(None)
            return

        def done(answer: Answer) -> None:
            ended_s = time.perf_counter() - began_s
            exchanges.append(Exchange(started_s, started_s, ended_s, answer))
            # Not from here: a server that refuses at once would nest without end.
            asyncio.get_running_loop().call_soon(ask)

        if not pool.send(next(turn), done):
            raise ValueError(f"a closed loop of {num_clients} needs as many connections")

    for _ in range(num_clients):
        ask()
    await ended
    return exchanges


def _in_turn(requests: Sequence[bytes]) -> Iterator[bytes]:
    while True:
        yield from requests


async def _sleep_until(at_s: float) -> None:
    """Never early. The timers of the event loop have a millisecond's resolution."""
    while (left_s := at_s - time.perf_counter()) > 0:
        await asyncio.sleep(left_s)
