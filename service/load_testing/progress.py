"""How a run goes, while it runs: one line that changes on a terminal, else a line now and then.

The display shares its thread with the generator, and a line costs it microseconds.
"""

import time
from typing import TextIO

from service.load_testing.generator import Tally

#: Between two lines where they cannot be overwritten.
_PLAIN_EVERY_S = 5.0


class Progress:
    """Writes to `stream`, if there is one."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._overwrites = stream is not None and stream.isatty()
        self._rate_per_s = 0.0
        self._seconds = 0.0
        self._tally = Tally()
        self._began_s = 0.0
        self._told_s = 0.0

    def begin(self, rate_per_s: float, seconds: float, tally: Tally) -> None:
        """A run begins that sends for `seconds` and keeps `tally` up to date."""
        self._rate_per_s, self._seconds, self._tally = rate_per_s, seconds, tally
        self._began_s = self._told_s = time.monotonic()

    def tell(self) -> None:
        """Show how far it is; called twice a second."""
        now_s = time.monotonic()
        if self._overwrites:
            self._write(f"\r{self._line(now_s)}\x1b[K")
        elif now_s - self._told_s >= _PLAIN_EVERY_S:
            self._told_s = now_s
            self._write(self._line(now_s) + "\n")

    def end(self) -> None:
        """The run is over."""
        self._write(f"\r{self._line(time.monotonic())}\x1b[K\n" if self._overwrites else "")

    def note(self, text: str) -> None:
        """A line between runs."""
        self._write(text + "\n")

    def _line(self, now_s: float) -> str:
        tally = self._tally
        elapsed_s = min(now_s - self._began_s, self._seconds)
        return (
            f"{self._rate_per_s:.4g}/s  {elapsed_s:.0f}/{self._seconds:.0f} s  sent {tally.sent}, "
            f"answered {tally.answered}, refused {tally.refused}, failed {tally.failed}, "
            f"under way {tally.sent - tally.ended}"
        )

    def _write(self, text: str) -> None:
        if self._stream is not None and text:
            self._stream.write(text)
            self._stream.flush()
