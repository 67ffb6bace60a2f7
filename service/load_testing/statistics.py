"""From exchanges to the figures of a run. Pure.

Percentiles are observations: the smallest value that at least that share of all does not exceed.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.load_testing.exchanges import Exchange, Outcome

#: Shares that are reported, by the names of their percentiles.
PERCENTILES: Mapping[str, float] = {
    "p50": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99.9": 0.999,
}

#: Buckets of a histogram grow by this factor, eight to a doubling, from the first bound on.
_BUCKET_GROWTH = 2 ** (1 / 8)
_FIRST_BUCKET_S = 1e-4

#: The metric that stands for the sum of the others in our own header.
_TOTAL = "total"

#: What no metric of the server explains: its HTTP layer, the network, the generator.
REST = "rest"

_SERVER_TIMING = re.compile(rb"([A-Za-z0-9_.!#$%&'*+^`|~-]+)[^,]*?;\s*dur=\"?([0-9.]+)")


@dataclass(frozen=True)
class Distribution:
    """Times in seconds; `percentiles_s` by name."""

    percentiles_s: Mapping[str, float]
    mean_s: float
    max_s: float


@dataclass(frozen=True)
class Counts:
    """Requests of the measured time. `late` and `in_time` part those that were answered.

    `refused` got a 429 or a 503, `expired` a 504, `failed` anything else or no answer.
    """

    scheduled: int
    unsent: int
    in_time: int
    late: int
    refused: int
    expired: int
    failed: int

    @property
    def answered(self) -> int:
        """With a 2xx, in time or not."""
        return self.in_time + self.late

    @property
    def sent(self) -> int:
        """All for which there was a connection."""
        return self.scheduled - self.unsent


@dataclass(frozen=True, eq=False)
class RunFigures:
    """Everything that is said of one run at one rate.

    `latencies_s` [n] are those of answered requests, ascending; `points` [n, 2] are scheduled
    time and latency of every request that was sent, with its outcome in `outcomes`. `stages_s`
    are mean and 99th percentile of each metric in `Server-Timing`.
    """

    rate_per_s: float
    seconds: float
    deadline_s: float | None
    counts: Counts
    problems: Sequence[str]
    latencies_s: NDArray[np.float64]
    service: Distribution | None
    lag: Distribution | None
    stages_s: Mapping[str, tuple[float, float]]
    statuses: Mapping[int, int]
    failures: Mapping[str, int]
    points: NDArray[np.float64]
    outcomes: Sequence[Outcome]
    cpu_s: float

    @property
    def is_valid(self) -> bool:
        """Whether the generator did what it should have: otherwise its figures say little."""
        return not self.problems

    @property
    def latency(self) -> Distribution | None:
        """From the scheduled time, of answered requests; None where none was."""
        return distribution(self.latencies_s)

    @property
    def offered_per_s(self) -> float:
        """What the schedule really held."""
        return self.counts.scheduled / self.seconds

    @property
    def goodput_per_s(self) -> float:
        """Answers in time."""
        return self.counts.in_time / self.seconds

    @property
    def goodput_share(self) -> float:
        """Of all that was asked."""
        return self.counts.in_time / self.counts.scheduled if self.counts.scheduled else 0.0

    def num_within(self, bound_s: float) -> int:
        """Requests that were answered so soon."""
        return int(np.searchsorted(self.latencies_s, bound_s, side="right"))


def figures_of(
    exchanges: Sequence[Exchange],
    *,
    rate_per_s: float,
    seconds: float,
    deadline_s: float | None = None,
    max_lag_s: float = math.inf,
    cpu_s: float = 0.0,
) -> RunFigures:
    """The figures of one run's measured time; the warm-up is left out by the caller.

    A 99th percentile of the generator's lag above `max_lag_s`, or a request without a connection,
    makes the run invalid.
    """
    answered = [each for each in exchanges if each.outcome is Outcome.ANSWERED]
    sent = [each for each in exchanges if each.answer is not None]
    lag = distribution(np.sort([each.lag_s for each in sent]))
    in_time = sum(deadline_s is None or each.latency_s <= deadline_s for each in answered)
    by_outcome = Counter(each.outcome for each in exchanges)
    counts = Counts(
        scheduled=len(exchanges),
        unsent=by_outcome[Outcome.UNSENT],
        in_time=in_time,
        late=len(answered) - in_time,
        refused=by_outcome[Outcome.REFUSED],
        expired=by_outcome[Outcome.EXPIRED],
        failed=by_outcome[Outcome.FAILED],
    )
    answers = [each.answer for each in exchanges if each.answer is not None]
    return RunFigures(
        rate_per_s=rate_per_s,
        seconds=seconds,
        deadline_s=deadline_s,
        counts=counts,
        problems=_problems(counts, lag, max_lag_s),
        latencies_s=np.sort(np.array([each.latency_s for each in answered], float)),
        service=distribution(np.sort([each.service_s for each in answered])),
        lag=lag,
        stages_s=_stages_s(answered),
        statuses=Counter(each.status for each in answers if each.status is not None),
        failures=Counter(each.reason for each in answers if each.outcome is Outcome.FAILED),
        points=np.array([(each.scheduled_s, each.latency_s) for each in sent]).reshape(-1, 2),
        outcomes=[each.outcome for each in sent],
        cpu_s=cpu_s,
    )


def distribution(ascending_s: NDArray[np.float64]) -> Distribution | None:
    """Of values in ascending order; None where there are none."""
    if not len(ascending_s):
        return None
    return Distribution(
        {name: percentile(ascending_s, share) for name, share in PERCENTILES.items()},
        mean_s=float(np.mean(ascending_s)),
        max_s=float(ascending_s[-1]),
    )


def percentile(ascending: NDArray[np.float64], share: float, *, out_of: int | None = None) -> float:
    """The smallest value that at least `share` of all does not exceed.

    `out_of` is the number of all where those that are missing in `ascending` count as infinite.
    """
    number = len(ascending) if out_of is None else out_of
    # 0.07 * 100 is a little more than 7.
    rank = max(1, math.ceil(share * number - 1e-9))
    return float(ascending[rank - 1]) if rank <= len(ascending) else math.inf


def histogram(ascending_s: NDArray[np.float64]) -> list[tuple[float, int]]:
    """Upper bounds in seconds and counts of the buckets that hold anything.

    Bounds are 0.1 ms times powers of 2 ** (1 / 8), a step of nine percent.
    """
    ratios = np.maximum(ascending_s / _FIRST_BUCKET_S, 1.0)
    numbers = np.ceil(np.log(ratios) / math.log(_BUCKET_GROWTH) - 1e-9).astype(int)
    found, counts = np.unique(numbers, return_counts=True)
    bounds_s = _FIRST_BUCKET_S * _BUCKET_GROWTH ** found.astype(float)
    return list(zip(bounds_s.tolist(), counts.tolist(), strict=True))


def server_timing_s(header: bytes) -> dict[str, float]:
    """Metrics of a `Server-Timing` header (W3C) that have a duration, in seconds."""
    return {
        name.decode("ascii"): float(milliseconds) / 1000
        for name, milliseconds in _SERVER_TIMING.findall(header)
        if milliseconds.count(b".") <= 1 and milliseconds != b"."
    }


def _stages_s(answered: Sequence[Exchange]) -> dict[str, tuple[float, float]]:
    """Mean and 99th percentile of each stage, and of what is left of the latency."""
    values: dict[str, list[float]] = {}
    for each in answered:
        assert each.answer is not None
        stages = server_timing_s(each.answer.server_timing)
        stages.pop(_TOTAL, None)
        if not stages:
            continue
        stages[REST] = each.latency_s - sum(stages.values())
        for name, seconds in stages.items():
            values.setdefault(name, []).append(seconds)
    ordered = {name: np.sort(each) for name, each in values.items() if name != REST}
    if REST in values:
        ordered[REST] = np.sort(values[REST])
    return {name: (float(np.mean(each)), percentile(each, 0.99)) for name, each in ordered.items()}


def _problems(counts: Counts, lag: Distribution | None, max_lag_s: float) -> list[str]:
    problems: list[str] = []
    if counts.unsent:
        problems.append(
            f"{counts.unsent} of {counts.scheduled} requests found no free connection and were "
            "not sent; raise --connections, or lower the rate or --timeout"
        )
    if lag is not None and lag.percentiles_s["p99"] > max_lag_s:
        problems.append(
            f"the generator fell behind: its p99 lag was {1000 * lag.percentiles_s['p99']:.1f} ms, "
            f"and {1000 * max_lag_s:g} ms are allowed (--max-lag); lower the rate, or give it a "
            "core of its own"
        )
    return problems
