"""When requests leave: by mathematics, not by clocks."""

import numpy as np
import pytest

from service.load_testing.schedule import ARRIVALS, MEAN_BURST, Arrivals, arrival_times_s


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_arrivals__keep_the_rate_and_the_time(arrivals: Arrivals) -> None:
    times_s = arrival_times_s(arrivals, 50, 2000, seed=1)
    assert np.all(np.diff(times_s) >= 0)
    assert times_s[0] >= 0
    assert times_s[-1] < 2000
    # Five standard deviations of the number in bursts, whose variance is largest.
    spread = 5 * np.sqrt(100_000 * (2 * MEAN_BURST - 1))
    assert len(times_s) == pytest.approx(100_000, abs=spread)


def test_arrivals__of_poisson_have_exponential_gaps() -> None:
    gaps_s = np.diff(arrival_times_s("poisson", 40, 5000, seed=2))
    assert gaps_s.mean() == pytest.approx(1 / 40, rel=0.02)
    assert gaps_s.std() == pytest.approx(1 / 40, rel=0.02)
    # Kolmogorov's distance from the exponential distribution, at a level of 0.001.
    below = 1 - np.exp(-40 * np.sort(gaps_s))
    ranks = np.arange(len(gaps_s)) / len(gaps_s)
    assert np.abs(below - ranks).max() < 1.95 / np.sqrt(len(gaps_s))
    # Neighbours know nothing of each other.
    assert abs(np.corrcoef(gaps_s[:-1], gaps_s[1:])[0, 1]) < 4 / np.sqrt(len(gaps_s))


def test_arrivals__uniform_are_evenly_spaced() -> None:
    times_s = arrival_times_s("uniform", 10, 2, seed=0)
    assert times_s.tolist() == pytest.approx([0.05 + 0.1 * index for index in range(20)])


def test_arrivals__in_bursts_come_together() -> None:
    times_s = arrival_times_s("bursty", 100, 1000, seed=3)
    moments, sizes = np.unique(times_s, return_counts=True)
    assert sizes.mean() == pytest.approx(MEAN_BURST, rel=0.05)
    assert np.diff(moments).mean() == pytest.approx(MEAN_BURST / 100, rel=0.05)


@pytest.mark.parametrize("arrivals", ["poisson", "bursty"])
def test_arrivals__are_those_of_the_seed(arrivals: Arrivals) -> None:
    first, again, other = (arrival_times_s(arrivals, 20, 10, seed) for seed in (7, 7, 8))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_arrivals__without_rate_or_time_are_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        arrival_times_s("poisson", rate, seconds, seed=0)


def test_arrivals__too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="lower the rate"):
        arrival_times_s("poisson", 1e6, 1e6, seed=0)
