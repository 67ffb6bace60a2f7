"""How far an evaluation is, on stderr: a bar on a terminal, lines elsewhere if it takes long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: What takes less needs no lines.
_QUIET_S = 2.0

#: Told how many of how many are done.
Report = Callable[[int, int], None]


@contextmanager
def shown(what: str, unit: str = "images") -> Iterator[Report]:
    """What to tell progress to, while `what` is done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, unit, console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """A line for each tenth."""

    def __init__(self, what: str, unit: str, console: Console) -> None:
        self._what = what
        self._unit = unit
        self._console = console
        self._tenths_shown = 0
        self._from_s = time.monotonic() + _QUIET_S

    def __call__(self, done: int, total: int) -> None:
        tenths = done * 10 // max(total, 1)
        if tenths > self._tenths_shown and time.monotonic() >= self._from_s:
            self._tenths_shown = tenths
            text = f"{self._what}: {done:,} of {total:,} {self._unit}"
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)
