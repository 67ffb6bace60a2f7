"""The places of an engine that several models share: who runs next when one becomes free.

A place is one call of a runtime. The model that has used the least time goes first, so that a
model with many requests, or slow ones, leaves the others their part.
"""

import asyncio
import time
from collections.abc import Callable

from service.scheduler.shares import Shares

_Turn = tuple[str, "asyncio.Future[int]"]


class EnginePlaces:
    """Give out `num_places`; on one event loop."""

    def __init__(self, num_places: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shares = Shares()
        self._free = list(range(num_places))
        self._free_at_s = [0.0] * num_places
        self._took_at_s = [0.0] * num_places
        self._waiting: list[_Turn] = []

    def free_at_s(self) -> list[float]:
        """When each place is expected to be free, the first one first.

        One that should have been free already will take as long again as it is late: it may have
        hung, and what would run there must not be taken for in time.
        """
        now_s = self._clock()
        free = set(self._free)
        return sorted(
            free_s if place in free or free_s > now_s else 2 * now_s - free_s
            for place, free_s in enumerate(self._free_at_s)
        )

    @property
    def num_taken(self) -> int:
        """Places in use."""
        return len(self._free_at_s) - len(self._free)

    def num_competing(self, model: str) -> int:
        """How many models want places now, `model` included."""
        return len({each for each, _ in self._waiting} | {model})

    async def take(self, model: str) -> int:
        """Wait for a place; it must be given back."""
        self._shares.arrived(model)
        if self._free:
            return self._given(self._free.pop())
        turn: _Turn = (model, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        try:
            return self._given(await turn[1])
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn[1].done() and not turn[1].cancelled():
                self._hand_on(turn[1].result())
            raise

    def expect(self, place: int, seconds: float) -> None:
        """The place is in use for about so long from now."""
        self._free_at_s[place] = self._clock() + seconds

    def give_back(self, place: int, model: str) -> None:
        """The model is done with the place; the time that it had it counts."""
        now_s = self._clock()
        self._shares.served(model, now_s - self._took_at_s[place])
        self._free_at_s[place] = now_s
        # Not at once: a model that goes on asking shall take part in what is decided.
        asyncio.get_running_loop().call_soon(self._hand_on, place)

    def _given(self, place: int) -> int:
        self._took_at_s[place] = self._free_at_s[place] = self._clock()
        return place

    def _hand_on(self, place: int) -> None:
        """To the model that has had the least; of equal ones the one that has waited longest."""
        if not self._waiting:
            self._free.append(place)
            self._shares.forget(())
            return
        turn = min(self._waiting, key=lambda each: self._shares.of(each[0]))
        self._waiting.remove(turn)
        # A waiter that was cancelled at this moment hands it on itself.
        if turn[1].cancelled():
            self._hand_on(place)
        else:
            turn[1].set_result(place)
