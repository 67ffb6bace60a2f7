"""Figures of known exchanges."""

import math

import numpy as np
import pytest

from service.load_testing.exchanges import Answer, Exchange, Outcome
from service.load_testing.statistics import (
    distribution,
    figures_of,
    histogram,
    percentile,
    server_timing_s,
)


def exchange(
    latency_s: float, *, at_s: float = 0.0, lag_s: float = 0.0, answer: Answer | None = None
) -> Exchange:
    return Exchange(at_s, at_s + lag_s, at_s + latency_s, answer or Answer(200))


def unsent(at_s: float = 0.0) -> Exchange:
    return Exchange(at_s, at_s, at_s, None)


def test_percentile__is_the_nearest_rank() -> None:
    values = np.arange(1.0, 101.0)
    shares = (0.01, 0.07, 0.5, 0.501, 0.99, 0.999, 1.0)
    assert [percentile(values, share) for share in shares] == [1, 7, 50, 51, 99, 100, 100]
    assert percentile(np.array([3.0]), 0.5) == 3.0


def test_percentile__out_of_more_counts_the_missing_as_infinite() -> None:
    values = np.arange(1.0, 91.0)
    assert percentile(values, 0.9, out_of=100) == 90.0
    assert percentile(values, 0.91, out_of=100) == math.inf
    assert percentile(np.zeros(0), 0.5, out_of=10) == math.inf


def test_distribution__of_known_values() -> None:
    found = distribution(np.arange(1.0, 1001.0))
    assert found is not None
    assert found.percentiles_s == {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999}
    assert (found.mean_s, found.max_s) == (500.5, 1000)
    assert distribution(np.zeros(0)) is None


def test_figures__each_request_counts_once() -> None:
    exchanges = [
        exchange(0.1),
        exchange(0.2),
        exchange(0.3, answer=Answer(201)),
        exchange(0.01, answer=Answer(429)),
        exchange(0.01, answer=Answer(503)),
        exchange(0.01, answer=Answer(504)),
        exchange(0.01, answer=Answer(500)),
        exchange(0.01, answer=Answer(404)),
        exchange(9.0, answer=Answer(failure="no answer within 9 s")),
        unsent(),
    ]
    figures = figures_of(exchanges, rate_per_s=10, seconds=2, deadline_s=0.2)
    counts = figures.counts
    assert (counts.scheduled, counts.sent, counts.unsent) == (10, 9, 1)
    assert (counts.answered, counts.in_time, counts.late) == (3, 2, 1)
    assert (counts.refused, counts.expired, counts.failed) == (2, 1, 3)
    assert figures.failures == {"status 500": 1, "status 404": 1, "no answer within 9 s": 1}
    assert figures.statuses == {200: 2, 201: 1, 429: 1, 503: 1, 504: 1, 500: 1, 404: 1}
    assert (figures.goodput_per_s, figures.goodput_share) == (1.0, 0.2)
    assert figures.latencies_s.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert figures.offered_per_s == 5.0


def test_figures__without_a_deadline_every_answer_is_in_time() -> None:
    figures = figures_of([exchange(100.0)], rate_per_s=1, seconds=1)
    assert (figures.counts.in_time, figures.counts.late) == (1, 0)


def test_figures__latency_counts_from_the_scheduled_time() -> None:
    figures = figures_of([exchange(0.5, at_s=3.0, lag_s=0.4)], rate_per_s=1, seconds=1)
    assert figures.latency is not None
    assert figures.service is not None
    assert figures.lag is not None
    assert figures.latency.max_s == pytest.approx(0.5)
    assert figures.service.max_s == pytest.approx(0.1)
    assert figures.lag.max_s == pytest.approx(0.4)


@pytest.mark.parametrize(("num_late", "is_valid"), [(1, True), (2, False)])
def test_figures__are_invalid_where_the_generator_was_late(num_late: int, is_valid: bool) -> None:
    exchanges = [exchange(0.5, lag_s=0.03 if index < num_late else 0.0) for index in range(100)]
    figures = figures_of(exchanges, rate_per_s=1, seconds=1, max_lag_s=0.02)
    assert figures.is_valid == is_valid
    assert is_valid or "p99 lag was 30.0 ms, and 20 ms are allowed" in figures.problems[0]


def test_figures__of_nothing_at_all() -> None:
    figures = figures_of([], rate_per_s=1, seconds=1)
    assert figures.latency is None
    assert figures.goodput_share == 0.0
    assert figures.points.shape == (0, 2)


def test_figures__say_where_the_time_went() -> None:
    header = b"decode;dur=10, infer;dur=30.5, total;dur=45"
    answers = [Answer(200, server_timing=header), Answer(200, server_timing=header)]
    exchanges = [exchange(0.1, answer=answers[0]), exchange(0.2, answer=answers[1])]
    exchanges.append(exchange(0.001, answer=Answer(503, server_timing=b"decode;dur=5000")))
    figures = figures_of(exchanges, rate_per_s=1, seconds=1)
    assert list(figures.stages_s) == ["decode", "infer", "rest"]
    assert figures.stages_s["decode"] == pytest.approx((0.010, 0.010))
    assert figures.stages_s["rest"] == pytest.approx((0.15 - 0.0405, 0.2 - 0.0405))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"db;dur=53, app;dur=47.2", {"db": 0.053, "app": 0.0472}),
        (b'cache;desc="Cache Read";dur=23.2', {"cache": 0.0232}),
        (b"miss, hit;desc=x", {}),
        (b'a;dur="1.5"', {"a": 0.0015}),
        (b"a;dur=1.2.3, b;dur=.", {}),
        (b"", {}),
    ],
)
def test_server_timing__is_read_as_far_as_it_can_be(
    header: bytes, expected: dict[str, float]
) -> None:
    assert server_timing_s(header) == pytest.approx(expected)


def test_histogram__holds_every_value_below_its_bound() -> None:
    values = np.sort(np.random.default_rng(0).lognormal(-4, 2, 5000))
    buckets = histogram(values)
    assert sum(count for _, count in buckets) == 5000
    bounds = [bound for bound, _ in buckets]
    assert bounds == sorted(bounds)
    below = 0
    for bound, count in buckets:
        below += count
        assert below == np.searchsorted(values, bound * (1 + 1e-9), side="right")
    assert histogram(np.zeros(0)) == []


def test_outcome__unsent_has_no_answer() -> None:
    assert unsent().outcome is Outcome.UNSENT
