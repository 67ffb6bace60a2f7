"""When a request is sent again, and after how long: pure policy, given what happened."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

#: Statuses of a server that may answer the same request later, and of a proxy without one.
PASSING_STATUSES = frozenset({429, 502, 503})


@dataclass(frozen=True)
class Retry:
    """How often one call is tried in all, and how long the pauses between may become.

    Where the server says when to come back, the pause is that long and up to `first_pause_s`
    longer, so that not all who were refused come back at once. Where it does not, the pause is
    anything from nothing to `first_pause_s`, twice that after the second failure, and so on up
    to `longest_pause_s` (exponential backoff with full jitter). `chance` gives numbers from 0 to 1.
    """

    attempts: int = 4
    first_pause_s: float = 0.25
    longest_pause_s: float = 8.0
    chance: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts}: the first one counts, so at least 1")
        if not 0 <= self.first_pause_s <= self.longest_pause_s < math.inf:
            raise ValueError("pauses are 0 <= first_pause_s <= longest_pause_s seconds")

    def pause_s(
        self, failures: int, *, remaining_s: float, asked_s: float | None = None
    ) -> float | None:
        """How long to wait after so many failures (at least one); None for giving up.

        `asked_s` is what the server asked for. A pause that leaves nothing of `remaining_s` is
        not worth waiting for.
        """
        if failures >= self.attempts:
            return None
        if asked_s is not None:
            pause_s = asked_s + self.chance() * self.first_pause_s
        else:
            longest_s = self.first_pause_s * 2.0 ** min(failures - 1, 64)
            pause_s = self.chance() * min(longest_s, self.longest_pause_s)
        return pause_s if pause_s < remaining_s else None


#: Every call is tried once.
NO_RETRY = Retry(attempts=1)
