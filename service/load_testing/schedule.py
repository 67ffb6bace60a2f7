"""When the requests of an open loop leave: fixed before the first one, whatever the server does.

Pure. The same seed gives the same times on every machine.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

#: `poisson`: independent users, gaps exponentially distributed. `uniform`: equal gaps. `bursty`:
#: groups that come at one moment, the groups a Poisson process.
Arrivals = Literal["poisson", "uniform", "bursty"]
ARRIVALS: tuple[Arrivals, ...] = get_args(Arrivals)

#: Requests in a burst on average; their number is geometrically distributed.
MEAN_BURST = 8

#: More would not be a load test of this process any more, and would fill its memory.
MAX_REQUESTS = 2_000_000


def arrival_times_s(
    arrivals: Arrivals, rate_per_s: float, seconds: float, seed: int
) -> NDArray[np.float64]:
    """Ascending times in [0, seconds), `rate_per_s` of them a second on average.

    Raises ValueError for a rate or a duration that is not positive, or more than `MAX_REQUESTS`.
    """
    if not (rate_per_s > 0 and seconds > 0):
        raise ValueError(f"a load needs a rate and a time above 0, not {rate_per_s:g}, {seconds:g}")
    if rate_per_s * seconds > MAX_REQUESTS:
        raise ValueError(
            f"{rate_per_s:g}/s for {seconds:g} s are more than {MAX_REQUESTS:,} requests; "
            "lower the rate or the time"
        )
    if arrivals == "uniform":
        # Half a gap in, so that a whole number of gaps holds exactly as many requests.
        return (np.arange(round(rate_per_s * seconds), dtype=np.float64) + 0.5) / rate_per_s
    rng = np.random.default_rng(seed)
    if arrivals == "poisson":
        return _poisson_times_s(rng, rate_per_s, seconds)
    bursts_s = _poisson_times_s(rng, rate_per_s / MEAN_BURST, seconds)
    return np.repeat(bursts_s, rng.geometric(1 / MEAN_BURST, len(bursts_s)))


def _poisson_times_s(
    rng: np.random.Generator, rate_per_s: float, seconds: float
) -> NDArray[np.float64]:
    """Gaps are drawn in chunks until they fill the time."""
    chunk = max(16, int(rate_per_s * seconds * 1.1))
    times_s = np.zeros(0)
    last_s = 0.0
    while last_s < seconds:
        more_s = last_s + np.cumsum(rng.exponential(1 / rate_per_s, chunk))
        times_s = np.concatenate([times_s, more_s])
        last_s = float(times_s[-1])
    return times_s[times_s < seconds]
