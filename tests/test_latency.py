"""What is learnt of how long batches take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduler.latency import LatencyModel


def test_mean_s__of_sizes_that_ran_and_between() -> None:
    model = LatencyModel({1: 1.0, 4: 2.5, 16: 8.5})
    assert model.mean_s(4) == 2.5
    assert model.mean_s(2) == pytest.approx(1.5)
    assert model.mean_s(10) == pytest.approx(5.5)


def test_mean_s__beyond_what_ran() -> None:
    model = LatencyModel({2: 1.0, 4: 1.5})
    assert model.mean_s(1) == 1.0
    assert model.mean_s(8) == pytest.approx(3.0)


def test_mean_s__of_nothing_known_is_zero() -> None:
    assert LatencyModel().mean_s(3) == LatencyModel().high_s(3) == 0


def test_observe__follows_an_engine_that_becomes_slower() -> None:
    model = LatencyModel({1: 1.0})
    for _ in range(40):
        model.observe(1, 2.0)
    assert model.mean_s(1) == pytest.approx(2.0, rel=0.01)


def test_observe__one_pause_moves_little() -> None:
    model = LatencyModel({1: 1.0})
    model.observe(1, 1000.0)
    assert model.mean_s(1) <= 1.6


def test_high_s__covers_what_batches_take() -> None:
    model = LatencyModel({1: 1.0})
    for turn in range(200):
        model.observe(1, 0.8 if turn % 2 else 1.2)
    assert model.high_s(1) >= 1.2
    steady = LatencyModel({1: 1.0})
    for _ in range(200):
        steady.observe(1, 1.0)
    assert steady.high_s(1) == pytest.approx(1.0)


def test_observe__other_sizes_stay() -> None:
    model = LatencyModel({1: 1.0, 8: 4.0})
    model.observe(8, 6.0)
    assert model.mean_s(1) == 1.0
    assert model.mean_s(8) > 4.0


def test_doubt__leads_down_to_what_was_seen_and_no_further() -> None:
    model = LatencyModel()
    model.observe(1, 1.0)
    for _ in range(20):
        model.observe(1, 3.0)
    slow_s = model.mean_s(1)
    model.doubt()
    assert model.mean_s(1) < slow_s
    for _ in range(200):
        model.doubt()
    assert model.mean_s(1) == 1.0


@given(
    st.floats(0.001, 100.0),
    st.lists(st.tuples(st.sampled_from([1, 2, 8]), st.floats(0.0005, 100.0)), max_size=50),
    st.floats(0.001, 10.0),
)
def test_doubt__an_idle_engine_is_asked_again_after_any_history(
    warm_s: float, history: list[tuple[int, float]], true_s: float
) -> None:
    """What is refused teaches nothing: without doubt one slow spell would refuse for ever."""
    model = LatencyModel({1: warm_s})
    for size, seconds in history:
        model.observe(size, seconds)
    model.observe(1, true_s)
    refusals = 0
    while model.high_s(1) > 1.01 * true_s:
        model.doubt()
        refusals += 1
        assert refusals < 1000
