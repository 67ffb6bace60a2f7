"""How many pictures clients may ask for, by a clock that the tests move."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.moving_windows import MovingWindows
from service.access.rate_limits import Allowance, RateLimits, parse_rate_limits
from service.errors import RateLimited, TooManyImages


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def rates(text: str, clock: Clock) -> RateLimits:
    return RateLimits(parse_rate_limits(text), clock=clock)


def refused_for_s(limits: RateLimits, client: str, num_images: int = 1, num_paid: int = 0) -> float:
    with pytest.raises(RateLimited) as raised:
        limits.charge(client, num_images, num_paid=num_paid)
    assert raised.value.retry_after_s is not None
    return raised.value.retry_after_s


def test_charge__allows_the_amount_and_then_again_when_the_window_has_moved() -> None:
    clock = Clock()
    limits = rates("3/minute", clock)
    for _ in range(3):
        limits.charge("a")
        clock.now_s += 10
    # Charged at 0, 10 and 20 s; it is 30 s now.
    assert refused_for_s(limits, "a") == pytest.approx(30)
    clock.now_s += 29.9
    assert refused_for_s(limits, "a") == pytest.approx(0.1)
    clock.now_s += 0.2
    limits.charge("a")
    assert refused_for_s(limits, "a") == pytest.approx(9.9)


def test_charge__clients_do_not_share() -> None:
    limits = rates("1/second", Clock())
    limits.charge("a")
    refused_for_s(limits, "a")
    limits.charge("b")


def test_charge__under_several_limits_all_hold_and_none_is_taken_of_in_vain() -> None:
    clock = Clock()
    limits = rates("5/minute;2/second", clock)
    limits.charge("a", 2)
    assert refused_for_s(limits, "a") == pytest.approx(1)
    assert [each.remaining for each in limits.allowances("a")] == [3, 0]
    clock.now_s += 1
    limits.charge("a", 2)
    clock.now_s += 1
    assert refused_for_s(limits, "a", 2) == pytest.approx(58)
    limits.charge("a")


def test_charge__several_pictures_at_once_wait_until_all_fit() -> None:
    clock = Clock()
    limits = rates("4/minute", clock)
    limits.charge("a")
    clock.now_s += 20
    limits.charge("a", 2)
    assert refused_for_s(limits, "a", 2) == pytest.approx(40)
    assert refused_for_s(limits, "a", 4) == pytest.approx(60)
    clock.now_s += 40
    limits.charge("a", 2)


def test_charge__for_the_rest_of_a_request() -> None:
    clock = Clock()
    limits = rates("4/minute", clock)
    limits.charge("a")
    limits.charge("a", 3, num_paid=1)
    assert limits.allowances("a")[0].remaining == 1
    limits.charge("a")
    limits.charge("a", 1, num_paid=1)


def test_charge__for_the_rest_waits_until_a_new_attempt_would_be_served_whole() -> None:
    clock = Clock()
    limits = rates("4/minute", clock)
    for _ in range(4):
        limits.charge("a")
        clock.now_s += 10
    # The next attempt pays for its first picture again: all three must fit, and not two.
    wait_s = refused_for_s(limits, "a", 3, num_paid=1)
    assert wait_s == pytest.approx(40)
    clock.now_s += wait_s
    limits.charge("a")
    limits.charge("a", 3, num_paid=1)


def test_charge__more_than_is_ever_allowed_is_no_matter_of_waiting() -> None:
    limits = rates("100/minute;4/second", Clock())
    for num_paid in (0, 1):
        with pytest.raises(TooManyImages, match="at most 4") as raised:
            limits.charge("a", 5, num_paid=num_paid)
        assert raised.value.limits == {"max_images_per_request": 4}
        assert raised.value.retry_after_s is None
    limits.charge("a", 4)


def test_allowances__say_what_remains_and_until_when() -> None:
    clock = Clock()
    limits = rates("10/5minute;3/second", clock)
    limits.charge("a", 2)
    clock.now_s += 0.5
    assert limits.allowances("a") == [
        Allowance("10/5minute", 10, 300, 8, pytest.approx(299.5)),
        Allowance("3/second", 3, 1, 1, pytest.approx(0.5)),
    ]
    assert [each.remaining for each in limits.allowances("new")] == [10, 3]


@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), max_size=60),
)
def test_charge__as_a_plain_list_of_times_would(steps: list[tuple[float, int]]) -> None:
    amount, window_s = 5, 4
    clock = Clock()
    limits = rates(f"{amount}/{window_s}second", clock)
    charged_s: list[float] = []
    for pause_s, num_images in steps:
        clock.now_s += pause_s
        within = [at_s for at_s in charged_s if at_s > clock.now_s - window_s]
        if len(within) + num_images <= amount:
            limits.charge("a", num_images)
            charged_s += [clock.now_s] * num_images
        else:
            wait_s = refused_for_s(limits, "a", num_images)
            in_the_way = within[len(within) + num_images - amount - 1]
            assert wait_s == pytest.approx(in_the_way + window_s - clock.now_s)
    assert all(
        later > earlier + window_s * 0.999
        for earlier, later in zip(charged_s, charged_s[amount:], strict=False)
    )


def test_charge__from_many_threads_allows_no_more() -> None:
    limits = rates("500/minute", Clock())
    barrier = threading.Barrier(8)
    allowed: list[int] = []

    def ask() -> None:
        barrier.wait(10)
        for _ in range(100):
            try:
                limits.charge("a")
            except RateLimited:
                continue
            allowed.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(allowed) == 500


# ------------------------------------------------------------------------------------------- memory


def test_windows__clients_that_stay_away_are_forgotten() -> None:
    clock = Clock()
    windows = MovingWindows(clock)
    for number in range(5000):
        clock.now_s += 0.1
        assert windows.acquire_entry(f"client {number}", 10, 60)
        assert len(windows) <= 601
    clock.now_s += 61
    assert windows.acquire_entry("another", 10, 60)
    assert len(windows) == 1


def test_windows__are_bounded_also_when_everybody_comes_at_once() -> None:
    windows = MovingWindows(Clock(), max_entries=1000)
    windows.acquire_entry("first", 10, 60, amount=5)
    sizes = []
    for number in range(3000):
        assert windows.acquire_entry(f"client {number}", 10, 60)
        sizes.append(len(windows))
    assert max(sizes) == 1000
    assert windows.get_moving_window("first", 10, 60)[1] == 0, "the one away for longest goes first"
    assert windows.get_moving_window("client 2999", 10, 60)[1] == 1


def test_windows__one_client_alone_is_kept_whatever_it_takes() -> None:
    windows = MovingWindows(Clock(), max_entries=10)
    assert windows.acquire_entry("a", 100, 60, amount=100)
    assert not windows.acquire_entry("a", 100, 60)


def test_windows__refused_clients_take_no_memory() -> None:
    windows = MovingWindows(Clock())
    assert not windows.acquire_entry("a", 3, 60, amount=4)
    windows.get_moving_window("b", 3, 60)
    windows.wait_s("c", 3, 60, 1)
    assert len(windows) == 0


def test_windows__count_their_entries_rightly() -> None:
    """The bound hangs on a running number: what is cleared or expires must leave it."""
    clock = Clock()
    windows = MovingWindows(clock, max_entries=6)
    for _ in range(50):
        windows.acquire_entry("a", 5, 10, amount=2)
        windows.acquire_entry("b", 5, 10)
        windows.clear("b")
        clock.now_s += 6
    clock.now_s += 10
    for name in "cdefgh":
        windows.acquire_entry(name, 5, 10)
    assert len(windows) == 6
    assert windows.reset() == 6
    assert len(windows) == 0


@pytest.mark.parametrize(
    ("text", "policies"),
    [
        ("50/second", ["50/second"]),
        ("50 per 2 minutes", ["50/2minute"]),
        ("1000/hour,20/second", ["1000/hour", "20/second"]),
    ],
)
def test_parse_rate_limits__as_operators_write_them(text: str, policies: list[str]) -> None:
    limits = rates(text, Clock())
    assert [each.policy for each in limits.allowances("a")] == policies
