import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.position import Pace, Position


def test_pace__last_step_of_an_epoch_takes_what_is_left() -> None:
    pace = Pace(epochs=2, batches_per_epoch=5, accumulation_steps=2)
    sizes, position = [], Position()
    while position.epoch < 2:
        sizes.append(pace.batches_of_next_step(position))
        position = pace.after_next_step(position)
    assert sizes == [2, 2, 1, 2, 2, 1]
    assert pace.total_steps == 6


@given(epochs=st.integers(1, 4), batches=st.integers(1, 12), accumulation=st.integers(1, 5))
def test_pace__step_counts_what_was_walked(epochs: int, batches: int, accumulation: int) -> None:
    pace = Pace(epochs, batches, accumulation)
    position, walked = Position(), 0
    while position.epoch < epochs:
        assert pace.step(position) == walked
        position, walked = pace.after_next_step(position), walked + 1
    assert pace.step(position) == walked == pace.total_steps


@pytest.mark.parametrize(("ours", "expected"), [(10, 4), (5, 2), (20, 8), (3, 0)])
def test_pace__transfers_to_another_cut_without_leaving_out(ours: int, expected: int) -> None:
    theirs = Pace(epochs=3, batches_per_epoch=10, accumulation_steps=2)
    pace = Pace(epochs=3, batches_per_epoch=ours, accumulation_steps=2)
    assert pace.transferred(Position(1, 4), theirs) == Position(1, expected)
