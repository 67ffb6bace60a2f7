"""What a service promises, whether a run kept it, and the search for the highest rate that does.

Pure: the search is told how runs went and says which rate comes next.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.load_testing.statistics import RunFigures, percentile

#: Runs that must agree before a rate counts as kept or as broken.
RUNS_THAT_AGREE = 2

#: The search ends when the lowest broken rate is at most so much above the highest kept one.
PRECISION = 0.05

#: The search gives up where even so little is too much, or nothing is.
LOWEST_PER_S = 0.1
HIGHEST_PER_S = 100_000.0

#: How sure `share_at_most` is.
CONFIDENCE = 0.95

Verdict = Literal["kept", "broken", "invalid"]

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse_time_s(text: str) -> float:
    """`250ms`, `1.5s` or `800us` in seconds. Raises ValueError."""
    found = _TIME.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"'{text}' is no time such as 250ms or 1.5s")
    return float(found[1]) * _SECONDS[found[2]]


@dataclass(frozen=True)
class Objective:
    """At least `share` of all requests are answered, within `bound_s` where there is one.

    Without a bound the deadline of the run counts. What is refused, fails or is not sent counts
    like an answer that never comes: a server cannot keep its percentiles by answering little.
    """

    text: str
    share: float
    bound_s: float | None

    def num_missed(self, figures: RunFigures) -> int:
        """Requests that were not answered so soon."""
        if self.bound_s is None:
            return figures.counts.scheduled - figures.counts.in_time
        return figures.counts.scheduled - figures.num_within(self.bound_s)

    def is_kept(self, figures: RunFigures) -> bool:
        """Whether one run kept it."""
        if self.bound_s is None:
            return figures.goodput_share >= self.share
        return self.reached_s(figures) <= self.bound_s

    def reached_s(self, figures: RunFigures) -> float:
        """The percentile of all requests, in seconds; infinite where it was not answered."""
        scheduled = figures.counts.scheduled
        return percentile(figures.latencies_s, self.share, out_of=scheduled)


def parse_objective(text: str) -> Objective:
    """`p99=50ms` or `goodput=0.99`. Raises ValueError."""
    name, equals, value = text.partition("=")
    if equals and name == "goodput":
        share = float(value) if re.fullmatch(r"\d*\.?\d+", value) else math.nan
        if not 0 < share <= 1:
            raise ValueError(f"objective '{text}': goodput is a share such as goodput=0.99")
        return Objective(text, share, None)
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", name)
    if not equals or found is None or not float(found[1]):
        raise ValueError(f"objective '{text}': write it as p99=50ms or goodput=0.99")
    try:
        return Objective(text, float(found[1]) / 100, parse_time_s(value))
    except ValueError as error:
        raise ValueError(f"objective '{text}': {error}") from None


def verdict(objectives: Sequence[Objective], figures: RunFigures) -> Verdict:
    """Whether a run kept them all.

    A generator that was late only adds to latencies: what was kept nevertheless is kept. What was
    broken then says nothing about the server. Connections that ran out are the server's doing:
    they all waited for it.
    """
    if all(each.is_kept(figures) for each in objectives):
        return "kept"
    return "broken" if figures.is_valid or figures.counts.unsent else "invalid"


class RateSearch:
    """Doubles (or halves) from `start_per_s` until one rate is kept and one broken, then bisects.

    Each rate is run until two runs agree. The middle is geometric. Where two runs were invalid
    the generator can do no more, and the search ends.
    """

    def __init__(self, start_per_s: float, *, precision: float = PRECISION) -> None:
        self._precision = precision
        self._runs: Counter[Verdict] = Counter()
        self._was_invalid = False
        self.rate_per_s = start_per_s
        #: The highest rate that was kept and the lowest that was broken, as far as known.
        self.kept_per_s: float | None = None
        self.broken_per_s: float | None = None

    @property
    def end(self) -> str | None:
        """Why the search is over, for people; None as long as it is not."""
        if self._was_invalid:
            return "the generator fell behind: the server may keep more"
        kept, broken = self.kept_per_s, self.broken_per_s
        if kept is None and broken is not None and broken <= LOWEST_PER_S:
            return f"broken even at {broken:g}/s"
        if broken is None and kept is not None and kept >= HIGHEST_PER_S:
            return f"kept even at {kept:g}/s"
        if kept is not None and broken is not None and broken <= kept * (1 + self._precision):
            return f"broken at {broken:.4g}/s"
        return None

    def record(self, how: Verdict) -> None:
        """A run at `rate_per_s` went so; `rate_per_s` is then the next one, if `end` is None."""
        self._runs[how] += 1
        if self._runs[how] < RUNS_THAT_AGREE:
            return
        self._runs.clear()
        if how == "invalid":
            self._was_invalid = True
            return
        if how == "kept":
            self.kept_per_s = self.rate_per_s
        else:
            self.broken_per_s = self.rate_per_s
        self.rate_per_s = self._next_rate()

    def _next_rate(self) -> float:
        if self.broken_per_s is None:
            return min(self.rate_per_s * 2, HIGHEST_PER_S)
        if self.kept_per_s is None:
            return max(self.rate_per_s / 2, LOWEST_PER_S)
        return math.sqrt(self.kept_per_s * self.broken_per_s)


def share_at_most(num_missed: int, num_requests: int, confidence: float = CONFIDENCE) -> float:
    """The share of misses that the server has at most, by `num_missed` in `num_requests`.

    The one-sided bound of Clopper and Pearson (1934): at a larger share so few misses would come
    with a probability below 1 - `confidence`. It holds where requests miss independently; those
    that wait in one queue do so together, so it is the least that one should doubt.
    """
    if num_missed >= num_requests:
        return 1.0
    counts = np.arange(1, num_missed + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((num_requests - counts + 1) / counts))])
    missed = np.arange(num_missed + 1)
    low, high = num_missed / num_requests, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        log_terms = (
            log_choose + missed * math.log(middle) + (num_requests - missed) * math.log1p(-middle)
        )
        if float(np.exp(log_terms).sum()) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What was found; `runs` are all that were made, with how they went, in order."""

    objectives: Sequence[Objective]
    rate_per_s: float | None
    why_it_ended: str
    runs: Sequence[tuple[RunFigures, Verdict]]

    def evidence(self) -> Mapping[str, tuple[int, int, float]]:
        """Of each objective at the rate that was found: misses, requests, and `share_at_most`."""
        found = [run for run, _ in self.runs if run.rate_per_s == self.rate_per_s]
        num_requests = sum(run.counts.scheduled for run in found)
        missed = {each.text: sum(map(each.num_missed, found)) for each in self.objectives}
        return {
            text: (count, num_requests, share_at_most(count, num_requests))
            for text, count in missed.items()
        }
