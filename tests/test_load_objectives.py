"""What is promised, and the search for the rate that keeps it, on servers that are formulas."""

import math
import random
from collections.abc import Callable

import pytest

from service.load_testing.exchanges import Answer, Exchange
from service.load_testing.objectives import (
    HIGHEST_PER_S,
    LOWEST_PER_S,
    PRECISION,
    RateSearch,
    SearchResult,
    Verdict,
    parse_objective,
    parse_time_s,
    share_at_most,
    verdict,
)
from service.load_testing.statistics import RunFigures, figures_of


def figures(*latencies_s: float, num_refused: int = 0, lag_s: float = 0.0) -> RunFigures:
    exchanges = [Exchange(0.0, lag_s, latency, Answer(200)) for latency in latencies_s]
    exchanges += [Exchange(0.0, 0.0, 0.001, Answer(503))] * num_refused
    return figures_of(exchanges, rate_per_s=10, seconds=1, deadline_s=0.2, max_lag_s=0.02)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("1.5s", 1.5), ("800us", 0.0008), (" 2 s ", 2.0)]
)
def test_time__with_its_unit(text: str, seconds: float) -> None:
    assert parse_time_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["250", "ms", "-1s", "0ms", "1m", "1 s 2", ""])
def test_time__otherwise_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time such as 250ms"):
        parse_time_s(text)


@pytest.mark.parametrize(
    "text", ["p99", "p99=", "p0=5ms", "99=5ms", "p100=5ms", "goodput=2", "goodput=x", "goodput=0"]
)
def test_objective__that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="objective"):
        parse_objective(text)


def test_objective__of_a_percentile() -> None:
    objective = parse_objective("p90=50ms")
    fast = [0.01] * 89
    assert objective.is_kept(figures(*fast, 0.05, *[9.0] * 10))
    assert not objective.is_kept(figures(*fast, 0.051, *[9.0] * 10))
    assert objective.num_missed(figures(*fast, 0.051, *[9.0] * 10)) == 11


def test_objective__a_server_that_refuses_does_not_keep_its_percentile() -> None:
    objective = parse_objective("p90=50ms")
    assert objective.is_kept(figures(*[0.01] * 90, num_refused=10))
    assert not objective.is_kept(figures(*[0.01] * 89, num_refused=11))
    assert objective.reached_s(figures(*[0.01] * 89, num_refused=11)) == math.inf


def test_objective__of_goodput_counts_by_the_deadline() -> None:
    objective = parse_objective("goodput=0.9")
    assert objective.is_kept(figures(*[0.2] * 9, 0.3))
    assert not objective.is_kept(figures(*[0.2] * 8, 0.3, 0.3))


def test_verdict__a_late_generator_can_prove_but_not_refute() -> None:
    objectives = [parse_objective("p50=100ms")]
    assert verdict(objectives, figures(0.05, lag_s=0.03)) == "kept"
    assert verdict(objectives, figures(0.15, lag_s=0.03)) == "invalid"
    assert verdict(objectives, figures(0.15)) == "broken"


def test_verdict__connections_that_ran_out_break_it() -> None:
    exchanges = [Exchange(0.0, 0.0, 0.0, None), Exchange(0.0, 0.5, 0.6, Answer(200))]
    ran_out = figures_of(exchanges, rate_per_s=1, seconds=1, max_lag_s=0.02)
    assert not ran_out.is_valid
    assert verdict([parse_objective("p99=50ms")], ran_out) == "broken"


def searched(start: float, run: Callable[[float], Verdict], most: int = 200) -> RateSearch:
    search = RateSearch(start)
    for _ in range(most):
        if search.end is not None:
            return search
        search.record(run(search.rate_per_s))
    raise AssertionError("the search does not end")


def p99_of_one_engine_s(rate_per_s: float, capacity_per_s: float = 130.0) -> float:
    """Of a queue with exponential arrivals and service times; infinite above its capacity."""
    left_per_s = capacity_per_s - rate_per_s
    return math.log(100) / left_per_s if left_per_s > 0 else math.inf


@pytest.mark.parametrize("start", [1.0, 20.0, 37.0, 129.0, 131.0, 5000.0])
def test_search__finds_what_the_formula_says(start: float) -> None:
    bound_s = 0.1
    highest = 130.0 - math.log(100) / bound_s
    search = searched(
        start, lambda rate: "kept" if p99_of_one_engine_s(rate) <= bound_s else "broken"
    )
    assert search.kept_per_s is not None
    assert search.kept_per_s <= highest < search.kept_per_s * (1 + PRECISION)
    assert search.end is not None
    assert "broken at" in search.end


def test_search__one_run_in_five_that_goes_wrong_does_not_mislead_it_far() -> None:
    chance = random.Random(0)

    def noisy(rate: float) -> Verdict:
        truth: Verdict = "kept" if rate <= 84 else "broken"
        wrong: Verdict = "broken" if truth == "kept" else "kept"
        # Noise is largest near the edge.
        return wrong if abs(rate / 84 - 1) < 0.2 and chance.random() < 0.2 else truth

    found = [searched(20, noisy).kept_per_s for _ in range(50)]
    near = [rate for rate in found if rate is not None and abs(rate / 84 - 1) <= 0.1]
    # With one run for each rate 37 are so near.
    assert len(near) >= 43


def test_search__each_rate_is_run_until_two_agree() -> None:
    search = RateSearch(10)
    search.record("kept")
    assert search.rate_per_s == 10
    assert search.kept_per_s is None
    search.record("broken")
    assert search.rate_per_s == 10
    search.record("kept")
    assert (search.kept_per_s, search.rate_per_s) == (10, 20)


def test_search__one_invalid_run_is_repeated_and_two_end_it() -> None:
    search = RateSearch(10)
    search.record("invalid")
    assert search.end is None
    search.record("kept")
    search.record("kept")
    search.record("invalid")
    search.record("invalid")
    assert search.kept_per_s == 10
    assert search.end == "the generator fell behind: the server may keep more"


def test_search__nothing_is_kept() -> None:
    search = searched(20, lambda rate: "broken")
    assert search.kept_per_s is None
    assert search.end == f"broken even at {LOWEST_PER_S:g}/s"


def test_search__everything_is_kept() -> None:
    assert searched(20, lambda rate: "kept").kept_per_s == HIGHEST_PER_S


def probability_of_at_most(num_missed: int, number: int, share: float) -> float:
    return sum(
        math.comb(number, count) * share**count * (1 - share) ** (number - count)
        for count in range(num_missed + 1)
    )


@pytest.mark.parametrize(("num_missed", "number"), [(0, 20), (3, 117), (50, 400)])
def test_share_at_most__is_where_so_few_misses_become_unlikely(
    num_missed: int, number: int
) -> None:
    share = share_at_most(num_missed, number)
    assert probability_of_at_most(num_missed, number, share) == pytest.approx(0.05, rel=1e-6)


def test_share_at_most__without_any_miss_is_known_in_closed_form() -> None:
    assert share_at_most(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert share_at_most(7, 7) == 1.0


def test_result__counts_misses_of_all_runs_at_the_rate() -> None:
    runs = [(figures(0.1, 0.01), "kept"), (figures(0.2, 0.2, 0.01), "kept")]
    result = SearchResult([parse_objective("p50=50ms")], 10, "broken at 11/s", runs)
    missed, number, share = result.evidence()["p50=50ms"]
    assert (missed, number) == (3, 5)
    assert share == share_at_most(3, 5)
