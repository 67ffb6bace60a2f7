"""Runs one after the other against one server: at given rates, or in search of the highest one."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.load_testing.connections import CannotConnect, ConnectionPool
from service.load_testing.exchanges import Answer, Outcome
from service.load_testing.generator import OpenLoop
from service.load_testing.objectives import Objective, RateSearch, SearchResult, Verdict, verdict
from service.load_testing.progress import Progress
from service.load_testing.schedule import Arrivals, arrival_times_s
from service.load_testing.statistics import RunFigures, figures_of

#: How often whoever watches is told.
_TOLD_EVERY_S = 0.5


@dataclass(frozen=True)
class RunPlan:
    """What all runs have in common; `pause_s` stands between two of them."""

    seconds: float = 30.0
    warm_up_s: float = 3.0
    pause_s: float = 1.0
    arrivals: Arrivals = "poisson"
    seed: int = 0
    deadline_s: float | None = None
    max_lag_s: float = 0.020


class RefusedTrial(ValueError):
    """The server answered a single request in a way that says that the request is wrong."""


class Campaign:
    """Runs against the server behind `pool`; `requests` are sent in turn."""

    def __init__(
        self, pool: ConnectionPool, requests: Sequence[bytes], plan: RunPlan, progress: Progress
    ) -> None:
        self._pool = pool
        self._requests = requests
        self._plan = plan
        self._progress = progress
        self._num_runs = 0

    async def try_once(self) -> None:
        """Send one request, before any is counted.

        A server that is not there, or whose answer says that the request is wrong (a 3xx, or a
        4xx other than 429), is told at once instead of a thousand times. Raises CannotConnect and
        RefusedTrial.
        """
        await self._pool.find_address()
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if not self._pool.send(self._requests[0], answered.set_result):
            raise CannotConnect("there is no connection for a first request")
        answer = await answered
        if answer.status is None:
            raise CannotConnect(f"a first request failed: {answer.failure}")
        if 300 <= answer.status < 500 and answer.outcome is Outcome.FAILED:
            said = " ".join(answer.excerpt.split())
            hint = "; give a key by --api-key or RTMDET_API_KEY" if answer.status == 401 else ""
            raise RefusedTrial(
                f"the server answers {answer.status}: {said or 'without a word'}{hint}"
            )

    async def run_rates(self, rates_per_s: Sequence[float]) -> list[RunFigures]:
        """A run at each rate."""
        return [await self._run(rate_per_s) for rate_per_s in rates_per_s]

    async def search(self, objectives: Sequence[Objective], start_per_s: float) -> SearchResult:
        """The highest rate at which all objectives are kept."""
        search = RateSearch(start_per_s)
        runs: list[tuple[RunFigures, Verdict]] = []
        while search.end is None:
            figures = await self._run(search.rate_per_s)
            how = verdict(objectives, figures)
            self._progress.note(f"{figures.rate_per_s:.4g}/s: {how}")
            runs.append((figures, how))
            search.record(how)
        return SearchResult(objectives, search.kept_per_s, search.end, runs)

    async def _run(self, rate_per_s: float) -> RunFigures:
        plan = self._plan
        if self._num_runs:
            await asyncio.sleep(plan.pause_s)
        # Another schedule in every run: two that agree shall not agree for having the same one.
        seed = plan.seed + self._num_runs
        self._num_runs += 1
        whole_s = plan.warm_up_s + plan.seconds
        times_s = arrival_times_s(plan.arrivals, rate_per_s, whole_s, seed).tolist()
        loop = OpenLoop(self._pool, self._requests, times_s)
        self._progress.begin(rate_per_s, whole_s, loop.tally)
        watching = asyncio.create_task(self._watch())
        cpu_s = time.process_time()
        try:
            exchanges = await loop.run()
        finally:
            watching.cancel()
            self._progress.end()
        cpu_s = time.process_time() - cpu_s
        measured = [each for each in exchanges if each.scheduled_s >= plan.warm_up_s]
        return figures_of(
            measured,
            rate_per_s=rate_per_s,
            seconds=plan.seconds,
            deadline_s=plan.deadline_s,
            max_lag_s=plan.max_lag_s,
            cpu_s=cpu_s / max(len(exchanges), 1),
        )

    async def _watch(self) -> None:
        while True:
            self._progress.tell()
            await asyncio.sleep(_TOLD_EVERY_S)
