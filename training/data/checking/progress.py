"""How far a check is, told on stderr; and decoders kept from writing in between."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Told what is being done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]

_TOLD_EVERY_S = 0.2
_LINE_EVERY_S = 5.0


class ProgressLine:
    """One line that is written over on a terminal; else a line every few seconds; a `Progress`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # A handle of its own: see `quiet_decoders`.
        self._stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self._on_terminal = self._stream.isatty()
        self._every_s = _TOLD_EVERY_S if self._on_terminal else _LINE_EVERY_S
        self._next = clock() + self._every_s
        self._has_line = False

    def __call__(self, doing: str, done: int, total: int) -> None:
        """So much of it is done."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + self._every_s
        line = f"{doing}: {done:,} of {total:,} images"
        self._stream.write(f"\r\x1b[K{line}" if self._on_terminal else f"{line}\n")
        self._stream.flush()
        self._has_line = self._on_terminal

    def close(self) -> None:
        """Leave no line behind."""
        if self._has_line:
            self._stream.write("\r\x1b[K")
        self._stream.close()


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep what libpng and libjpeg write to stderr of broken files off the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
