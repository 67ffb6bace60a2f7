"""How much of request bodies may be in memory at once."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from service.errors import Overloaded

#: Takes bytes of an `UploadBudget`; raises Overloaded where there are no more.
TakeBytes = Callable[[int], None]


class UploadBudget:
    """Bytes of request bodies that may be in memory at once, all clients together.

    One client may have half of them, so that it cannot keep all others out.
    """

    def __init__(self, max_bytes: int, on_refused: Callable[[], None]) -> None:
        """`on_refused` is called whenever there are no more."""
        self._on_refused = on_refused
        self.max_bytes_per_client = max_bytes // 2
        self._free = max_bytes
        self._taken: Counter[str] = Counter()

    @contextmanager
    def share(self, client: str) -> Generator[TakeBytes]:
        """A function that takes bytes of the budget; they are given back when the block ends.

        It raises Overloaded where there are no more.
        """
        taken = 0

        def take(num_bytes: int) -> None:
            nonlocal taken
            left = min(self._free, self.max_bytes_per_client - self._taken[client])
            if num_bytes > left:
                self._on_refused()
                raise Overloaded("too many uploads at once; try again later", retry_after_s=1.0)
            self._free -= num_bytes
            self._taken[client] += num_bytes
            taken += num_bytes

        try:
            yield take
        finally:
            self._free += taken
            self._taken[client] -= taken
            if not self._taken[client]:
                del self._taken[client]
