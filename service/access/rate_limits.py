"""How many pictures a client may ask for in a time: moving windows, by the library `limits`.

In no stretch of a window's length is a client served more than the limit's amount. What is refused
is not counted.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from limits import RateLimitItem, parse_many
from limits.strategies import MovingWindowRateLimiter

from service.access.moving_windows import MAX_ENTRIES, MovingWindows
from service.errors import RateLimited, TooManyImages
from service.settings import SettingsError

#: Largest amount of a limit: one client alone must not push all others out of the memory.
MAX_AMOUNT = MAX_ENTRIES // 2


@dataclass(frozen=True)
class Allowance:
    """Where a client stands under one limit: of `amount` in `window_s`, `remaining` are left.

    After `reset_s` there begin to be more.
    """

    policy: str
    amount: int
    window_s: int
    remaining: int
    reset_s: float


class RateLimits:
    """Charges clients under all of some limits at once. Safe to be used from any thread."""

    def __init__(
        self, limits: Sequence[RateLimitItem], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._limits = [_Limit(item, MovingWindows(clock)) for item in limits]
        self._lock = threading.Lock()

    def charge(self, client: str, num_images: int = 1, *, num_paid: int = 0) -> None:
        """Count a request for `num_images`, of which `num_paid` were charged for before.

        Raises RateLimited with the time after which all of them would be allowed, and
        TooManyImages where they never will be.
        """
        most = min(limit.item.amount for limit in self._limits)
        if num_images > most:
            raise TooManyImages(
                f"{num_images} pictures in one request are more than the rate limit ever allows; "
                f"send at most {most} in each",
                limits={"max_images_per_request": most},
            )
        due = num_images - num_paid
        if due <= 0:
            return
        with self._lock:
            if all(limit.allows(client, due) for limit in self._limits):
                for limit in self._limits:
                    limit.take(client, due)
                return
            wait_s = max(limit.wait_s(client, num_images) for limit in self._limits)
        allowed = " and ".join(limit.policy for limit in self._limits)
        raise RateLimited(
            f"the rate limit of {allowed} pictures is reached; try again in {wait_s:.1f} s",
            retry_after_s=wait_s,
        )

    def allowances(self, client: str) -> Sequence[Allowance]:
        """Where the client stands under each limit now."""
        with self._lock:
            now = self._clock()
            return [limit.allowance(client, now) for limit in self._limits]


class _Limit:
    """One limit and what clients have taken of it."""

    def __init__(self, item: RateLimitItem, windows: MovingWindows) -> None:
        self.item = item
        self.policy = _written(item)
        self._windows = windows
        self._limiter = MovingWindowRateLimiter(windows)

    def allows(self, client: str, amount: int) -> bool:
        return self._limiter.test(self.item, client, cost=amount)

    def take(self, client: str, amount: int) -> None:
        taken = self._limiter.hit(self.item, client, cost=amount)
        assert taken, "it was allowed under the same lock"

    def wait_s(self, client: str, amount: int) -> float:
        item = self.item
        return self._windows.wait_s(item.key_for(client), item.amount, item.get_expiry(), amount)

    def allowance(self, client: str, now: float) -> Allowance:
        stats = self._limiter.get_window_stats(self.item, client)
        window_s = self.item.get_expiry()
        reset_s = max(0.0, stats.reset_time - now)
        return Allowance(self.policy, self.item.amount, window_s, stats.remaining, reset_s)


def parse_rate_limits(text: str) -> Sequence[RateLimitItem]:
    """Limits as operators write them, `1000/minute;20/second`. Raises SettingsError."""
    try:
        items = parse_many(text)
    except ValueError:
        items = []
    if not items or not all(1 <= item.amount <= MAX_AMOUNT for item in items):
        raise SettingsError(
            f"RTMDET_RATE_LIMIT={text!r}: write an amount from 1 to {MAX_AMOUNT} and a time, "
            "50/second, or several of them, 1000/minute;20/second"
        )
    return items


def _written(item: RateLimitItem) -> str:
    """A limit as it is written in settings.

    >>> _written(parse_many("100 per 5 minutes")[0])
    '100/5minute'
    """
    multiples = item.multiples if item.multiples > 1 else ""
    return f"{item.amount}/{multiples}{item.GRANULARITY.name}"
