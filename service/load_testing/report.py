"""A bench as JSON, for programs. `FORMAT` changes when a key changes its meaning or goes away.

format          "rtmdet-bench/1"
version, started, command      of the program; the command without anybody's keys
target          url, method, body, pictures, picture_bytes (mean), options
plan            arrivals, seed, seconds, warm_up_s, pause_s, deadline_ms, timeout_ms,
                connections, max_lag_ms
runs            in order, each:
    rate_per_s, offered_per_s     asked for, and what the schedule really held
    valid, problems               whether the generator kept up, and sentences if not
    counts                        scheduled, sent, unsent, answered, in_time, late, refused (429,
                                  503), expired (504), failed
    statuses, failures            how many of each status, of each reason
    goodput_per_s, goodput_share  answers in time; null where not valid
    latency_ms                    from the scheduled time, of answered requests: p50, p90, p95,
                                  p99, p99.9, mean, max; null where none, or not valid
    service_ms                    the same from when a request really left
    lag_ms                        the same of the generator's own lateness
    stages_ms                     by Server-Timing's metric: mean, p99; and `rest`
    histogram                     of latency: [upper bound in ms, count], non-empty buckets
    cpu_ms_per_request            of the generator
search          null, or: objectives, rate_per_s (null where none was kept), end, verdicts (one
                for each run), evidence by objective: missed, requests, share_at_most
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.load_testing.objectives import SearchResult
from service.load_testing.statistics import Distribution, RunFigures, histogram

FORMAT = "rtmdet-bench/1"

Json = dict[str, object]


@dataclass(frozen=True)
class Bench:
    """All that was found, and how; `about`, `target` and `plan` are written as they are."""

    about: Mapping[str, object]
    target: Mapping[str, object]
    plan: Mapping[str, object]
    runs: Sequence[RunFigures]
    search: SearchResult | None = None

    @property
    def is_sound(self) -> bool:
        """Whether every run is valid and something was answered.

        A search may end at a rate that is too much for the generator: its result says so.
        """
        if self.search is not None:
            return self.search.rate_per_s is not None
        return all(run.is_valid and run.counts.answered for run in self.runs)


def bench_json(bench: Bench) -> Json:
    """The whole document."""
    return {
        "format": FORMAT,
        **bench.about,
        "target": dict(bench.target),
        "plan": dict(bench.plan),
        "runs": [_run(run) for run in bench.runs],
        "search": None if bench.search is None else _search(bench.search),
    }


def _run(run: RunFigures) -> Json:
    counts = run.counts
    return {
        "rate_per_s": run.rate_per_s,
        "offered_per_s": run.offered_per_s,
        "valid": run.is_valid,
        "problems": list(run.problems),
        "counts": {
            "scheduled": counts.scheduled,
            "sent": counts.sent,
            "unsent": counts.unsent,
            "answered": counts.answered,
            "in_time": counts.in_time,
            "late": counts.late,
            "refused": counts.refused,
            "expired": counts.expired,
            "failed": counts.failed,
        },
        "statuses": {str(status): count for status, count in sorted(run.statuses.items())},
        "failures": dict(run.failures),
        "goodput_per_s": run.goodput_per_s if run.is_valid else None,
        "goodput_share": run.goodput_share if run.is_valid else None,
        "latency_ms": _distribution(run.latency) if run.is_valid else None,
        "service_ms": _distribution(run.service) if run.is_valid else None,
        "lag_ms": _distribution(run.lag),
        "stages_ms": {
            name: {"mean": _ms(mean_s), "p99": _ms(p99_s)}
            for name, (mean_s, p99_s) in run.stages_s.items()
        },
        "histogram": [[_ms(bound_s), count] for bound_s, count in histogram(run.latencies_s)],
        "cpu_ms_per_request": _ms(run.cpu_s),
    }


def _search(search: SearchResult) -> Json:
    evidence: Json = {
        text: {"missed": missed, "requests": requests, "share_at_most": share}
        for text, (missed, requests, share) in search.evidence().items()
    }
    return {
        "objectives": [each.text for each in search.objectives],
        "rate_per_s": search.rate_per_s,
        "end": search.why_it_ended,
        "verdicts": [how for _, how in search.runs],
        "evidence": evidence if search.rate_per_s is not None else {},
    }


def _distribution(found: Distribution | None) -> Json | None:
    if found is None:
        return None
    percentiles: Json = {name: _ms(value_s) for name, value_s in found.percentiles_s.items()}
    return percentiles | {"mean": _ms(found.mean_s), "max": _ms(found.max_s)}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 4)
