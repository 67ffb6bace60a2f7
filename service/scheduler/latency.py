"""How long a batch takes, by its size: learnt from the batches that ran. Pure: no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: How far one batch moves what is known of its size.
_STEP = 0.2

#: One batch counts at most for so many times of what was expected: a pause of the machine is not
#: what the next batch will take. If it is, a few batches tell.
_MOST = 4.0

#: What is left of what is known where it is doubted.
_DOUBT = 0.97

#: Deviations above the mean within which a batch is expected to end.
_MARGIN = 2.0


class LatencyModel:
    """Seconds that a batch of n pictures takes: a mean for each size that ran, lines between them.

    `warm` is what each size took before the first request came. Without anything known a batch
    takes no time, so that nothing is refused for a guess.
    """

    def __init__(self, warm: Mapping[int, float] | None = None) -> None:
        self._mean_s = dict(warm or {})
        #: Of what ran for requests; a warm-up may have run beside anything.
        self._least_s: dict[int, float] = {}
        #: Mean absolute deviation from what was expected, as a share of it.
        self._deviation = 0.0

    @property
    def is_known(self) -> bool:
        """Whether any batch ran."""
        return bool(self._mean_s)

    def observe(self, size: int, seconds: float) -> None:
        """A batch of `size` took `seconds`."""
        expected_s = self.mean_s(size)
        self._least_s[size] = min(self._least_s.get(size, seconds), seconds)
        if expected_s <= 0:
            self._mean_s[size] = seconds
            return
        seconds = min(seconds, _MOST * expected_s)
        self._deviation += _STEP * (abs(seconds - expected_s) / expected_s - self._deviation)
        known_s = self._mean_s.get(size, expected_s)
        self._mean_s[size] = known_s + _STEP * (seconds - known_s)

    def doubt(self) -> None:
        """A request was refused although nothing ran: what is known may be too high.

        Otherwise an engine that was slow once, and is asked for quick answers alone, would never
        run again and never be known to be fast.
        """
        self._deviation *= _DOUBT
        self._mean_s = {
            size: max(_DOUBT * seconds, self._least_s.get(size, 0.0))
            for size, seconds in self._mean_s.items()
        }

    def mean_s(self, size: int) -> float:
        """What a batch of `size` takes on average."""
        known = self._mean_s
        if not known:
            return 0.0
        if size in known:
            return known[size]
        below = max((each for each in known if each < size), default=None)
        above = min((each for each in known if each > size), default=None)
        if below is None:
            # Fewer pictures take no longer than the fewest that are known.
            return known[min(known)]
        if above is None:
            # Each further one takes at most its share of the largest batch that is known.
            return known[below] * size / below
        share = (size - below) / (above - below)
        return known[below] + share * (known[above] - known[below])

    def high_s(self, size: int) -> float:
        """Within what time a batch of `size` will be done, but for rare ones."""
        return self.mean_s(size) * (1 + _MARGIN * self._deviation)


@dataclass(frozen=True)
class EngineLatency:
    """What batches take alone, and beside others: on a processor they slow each other down."""

    alone: LatencyModel = field(default_factory=LatencyModel)
    beside: LatencyModel = field(default_factory=LatencyModel)

    def of(self, *, beside: bool) -> LatencyModel:
        """What to expect; as long as nothing ran beside others, the same as alone."""
        return self.beside if beside and self.beside.is_known else self.alone

    def observe(self, size: int, seconds: float, *, beside: bool) -> None:
        """A batch of `size` took `seconds`."""
        (self.beside if beside else self.alone).observe(size, seconds)
