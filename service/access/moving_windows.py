"""When clients last asked, kept for the library `limits` in bounded memory.

The library's own storage keeps an entry for every client that ever came, and walks through all of
them on a new thread a hundred times a second; a server that anyone may ask can afford neither.
"""

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable

from limits.storage import MovingWindowSupport, Storage

#: Entries that are kept, all clients of one limit together: at most some 60 MB, where every one is
#: another client's.
MAX_ENTRIES = 200_000


class MovingWindows(Storage, MovingWindowSupport):
    """For each client the times of what it was charged for, oldest first. One limit's alone.

    Where there are too many entries, the clients that have not been seen for longest are forgotten.
    Not safe to be used from several threads at once.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float], *, max_entries: int = MAX_ENTRIES) -> None:
        super().__init__()
        self._clock = clock
        self._max_entries = max_entries
        #: By key, the one that was charged last at the end.
        self._windows: OrderedDict[str, array[float]] = OrderedDict()
        self._num_entries = 0

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._windows)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Charge `amount` if no more than `limit` are then within `expiry` seconds."""
        now = self._clock()
        self._forget_before(now - expiry)
        window = self._window(key, now - expiry)
        if len(window) + amount > limit:
            return False
        window.extend([now] * amount)
        self._num_entries += amount
        self._windows[key] = window
        self._windows.move_to_end(key)
        while self._num_entries > self._max_entries and len(self._windows) > 1:
            self._forget_oldest()
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest entry of the last `expiry` seconds was made, or now, and their number."""
        now = self._clock()
        window = self._window(key, now - expiry)
        return (window[0], len(window)) if window else (now, 0)

    def wait_s(self, key: str, limit: int, expiry: int, amount: int) -> float:
        """Seconds until `amount`, at most `limit`, can be charged; 0 if now."""
        now = self._clock()
        window = self._window(key, now - expiry)
        num_to_expire = len(window) + amount - limit
        return 0.0 if num_to_expire <= 0 else window[num_to_expire - 1] + expiry - now

    def _window(self, key: str, start: float) -> "array[float]":
        """What a client was charged for since `start`; a new, empty one for a new client."""
        window = self._windows.get(key)
        if window is None:
            return array("d")
        num_expired = bisect_right(window, start)
        del window[:num_expired]
        self._num_entries -= num_expired
        return window

    def _forget_before(self, start: float) -> None:
        """Drop clients that were charged for nothing since `start`."""
        while self._windows:
            window = next(iter(self._windows.values()))
            if window and window[-1] > start:
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, window = self._windows.popitem(last=False)
        self._num_entries -= len(window)

    # -- the rest of what the library asks of a storage; moving windows do not use the counters

    @property
    def base_exceptions(self) -> type[Exception]:
        """What may go wrong here."""
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not kept."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Not kept."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Not kept."""
        raise NotImplementedError

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def reset(self) -> int:
        """Forget everyone; the number of clients that were known."""
        num_clients = len(self._windows)
        self._windows.clear()
        self._num_entries = 0
        return num_clients

    def clear(self, key: str) -> None:
        """Forget one client."""
        self._num_entries -= len(self._windows.pop(key, ()))
