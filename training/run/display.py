"""What someone who watches a run sees, on stderr: a live bar on a terminal, plain lines elsewhere.

Other programs read `progress.jsonl`. A terminal that has gone away ends no run.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Protocol, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

#: How often the live bar is drawn.
_REDRAW_S = 0.25

#: Terminals of fewer columns have a short bar and few numbers beside it.
_WIDE = 120


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Where a run is. `epoch` counts from 0; `values` are losses by name, means since the last."""

    step: int
    total_steps: int
    epoch: int
    num_epochs: int
    stage: str
    values: Mapping[str, float]
    lr: float
    images_per_second: float
    eta_s: float


class Display(Protocol):
    """Shows a run. All methods may be called at any time until `close`."""

    def advance(self, step: int) -> None:
        """`step` steps are done; called after each, so it costs next to nothing."""
        ...

    def show(self, report: StepReport) -> None:
        """Losses and speed are known anew."""
        ...

    def beside(self, text: str) -> None:
        """What runs beside the training, and how far it is; empty where nothing does."""
        ...

    def message(self, text: str) -> None:
        """Something happened: an evaluation, a checkpoint, a problem. It stays on the screen."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class LiveDisplay:
    """A bar that stays at the bottom of a terminal; messages go above it.

    It is drawn from the calls alone, without a thread: data workers are forked from this process.
    Where the run is and the time left are always there; losses and speed as far as there is room.
    """

    def __init__(
        self,
        console: Console,
        *,
        total_steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def text(template: str) -> TextColumn:
            column = Column(no_wrap=True, overflow="ellipsis")
            return TextColumn(template, markup=False, table_column=column)

        self._cells = BarColumn(bar_width=20)
        self._bar = Progress(
            text("{task.description}"), self._cells, MofNCompleteColumn(),
            text("{task.fields[left]}"), text("{task.fields[details]}"),
            console=console, auto_refresh=False,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=total_steps, left="", details="")
        self._beside = ""
        self._report: StepReport | None = None
        self._clock = clock
        self._fit()
        self._drawn = clock()
        self._bar.start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step)
        if self._clock() - self._drawn >= _REDRAW_S:
            self._draw()

    def show(self, report: StepReport) -> None:
        """Write the numbers beside the bar."""
        self._report = report
        self._bar.update(
            self._task,
            completed=report.step,
            description=_place(report),
            left=_left(report),
        )
        self._draw()

    def beside(self, text: str) -> None:
        """Write it where losses stand otherwise."""
        self._beside = text
        self._draw()

    def message(self, text: str) -> None:
        """Print above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._draw()

    def close(self) -> None:
        """Leave the bar where it stands."""
        self._draw()
        self._bar.stop()

    def _draw(self) -> None:
        self._drawn = self._clock()
        self._fit()
        self._bar.refresh()

    def _fit(self) -> None:
        """Suit the terminal's width, which may have changed."""
        width = self._bar.console.width
        self._cells.bar_width = 20 if width >= _WIDE else 10
        if self._report is None:
            self._bar.update(self._task, details=self._beside)
            return
        counter = 2 * len(str(self._report.total_steps)) + 1
        taken = len(_place(self._report)) + self._cells.bar_width + counter
        taken += len(_left(self._report)) + 4  # a space between columns
        details = _details(self._report, self._beside, width, width - taken)
        self._bar.update(self._task, details=details)


class LineDisplay:
    """A line of name=value pairs every `every_s` seconds, and each message at once.

    Each begins with the local time, which `now` tells.
    """

    def __init__(
        self,
        console: Console,
        *,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._console = console
        self._now = now
        self._every_s = every_s
        self._clock = clock
        self._next = clock()
        self._beside = ""

    def advance(self, step: int) -> None:
        """Lines come with numbers alone."""

    def beside(self, text: str) -> None:
        """At the end of the next line; a line of its own when it was quiet for long."""
        self._beside = text
        if text and self._clock() >= self._next + self._every_s:
            self._next = self._clock()
            self.message(text)

    def show(self, report: StepReport) -> None:
        """Print a line, when it is time for one or the run is at its end."""
        if self._clock() < self._next and report.step < report.total_steps:
            return
        self._next = self._clock() + self._every_s
        pairs = {
            "step": f"{report.step}/{report.total_steps}",
            "epoch": f"{report.epoch + 1}/{report.num_epochs}",
            "stage": report.stage,
            **{name: f"{value:.5g}" for name, value in report.values.items()},
            "lr": f"{report.lr:.4g}",
            "images_per_second": f"{report.images_per_second:.1f}",
            "left": _duration(report.eta_s),
        }
        listed = " ".join(f"{name}={value}" for name, value in pairs.items())
        self.message(f"{listed} ({self._beside})" if self._beside else listed)

    def message(self, text: str) -> None:
        """Print a line."""
        line = f"{self._now():%H:%M:%S} {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Every line is already there."""


class SilentDisplay:
    """Shows nothing: the ranks other than 0."""

    def advance(self, step: int) -> None:
        """Nothing."""

    def show(self, report: StepReport) -> None:
        """Nothing."""

    def beside(self, text: str) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def display_for(*, rank: int, total_steps: int, stream: TextIO | None = None) -> Display:
    """The display that suits `stream`, by default stderr; none for ranks other than 0."""
    if rank != 0:
        return SilentDisplay()
    console = Console(file=cast("IO[str]", LastingStream(stream or sys.stderr)))
    if console.is_terminal:
        return LiveDisplay(console, total_steps=total_steps)
    return LineDisplay(console)


class LastingStream:
    """A stream whose reader may go away (a closed terminal, `| head`): then nothing is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """Write, if anyone still reads."""
        if self._stream is not None:
            try:
                return self._stream.write(text)
            except OSError:
                self._stream = None
        return len(text)

    def flush(self) -> None:
        """Flush, if anyone still reads."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError:
                self._stream = None

    def isatty(self) -> bool:
        """Whether someone looks at it."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor below; raises OSError once nobody reads."""
        if self._stream is None:
            raise OSError("nobody reads this stream any more")
        return self._stream.fileno()


def _place(report: StepReport) -> str:
    return f"{report.stage}  epoch {report.epoch + 1}/{report.num_epochs}"


def _left(report: StepReport) -> str:
    return f"{_duration(report.eta_s)} left"


def _details(report: StepReport, beside: str, width: int, room: int) -> str:
    """What runs beside, losses and speed that fit into `room` cells of a terminal of `width`."""
    # The gradient's norm jumps about; it is in the log.
    losses = [f"{name} {value:.4g}" for name, value in report.values.items() if "loss" in name]
    speed = f"{report.images_per_second:.1f} images/s"
    choices = [[*losses[:1], speed], losses[:1]]
    if width >= _WIDE:
        choices.insert(0, [*losses, speed])
    if beside:
        choices = [*([beside, *choice] for choice in choices), [beside]]
    lines = map("  ".join, choices)
    return next((line for line in lines if len(line) <= room), "")


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, without a space."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
