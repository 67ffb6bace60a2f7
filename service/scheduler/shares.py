"""Who has been given how much, for turns that are fair. Pure."""

from collections.abc import Iterable


class Shares:
    """How much each taker has been given, as fair queueing counts it.

    A taker that comes back gets no credit for the time in which it asked for nothing: it starts
    at what the least served of those who wait has (start-time fair queueing, Goyal et al. 1996).
    """

    def __init__(self) -> None:
        self._given: dict[str, float] = {}
        self._level = 0.0

    def of(self, taker: str) -> float:
        """How much the taker has been given; less goes first."""
        return self._given.get(taker, self._level)

    def arrived(self, taker: str) -> None:
        """The taker asks for something."""
        self._given[taker] = max(self.of(taker), self._level)

    def served(self, taker: str, amount: float = 1.0) -> None:
        """The taker gets so much."""
        self._level = max(self._level, self.of(taker))
        self._given[taker] = self.of(taker) + amount

    def forget(self, waiting: Iterable[str]) -> None:
        """Drop takers that do not wait and have no more than those who come anew."""
        kept = set(waiting)
        self._given = {
            taker: given
            for taker, given in self._given.items()
            if taker in kept or given > self._level
        }

    def copy(self) -> "Shares":
        """The same, to look ahead with."""
        other = Shares()
        other._given, other._level = dict(self._given), self._level
        return other
