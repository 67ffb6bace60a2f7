import io
import os
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from training.run.display import (
    LastingStream,
    LineDisplay,
    LiveDisplay,
    SilentDisplay,
    StepReport,
    display_for,
)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def report(step: int = 120) -> StepReport:
    return StepReport(
        step=step, total_steps=3000, epoch=0, num_epochs=10, stage="mixing",
        values={"loss": 1.23456, "loss_box": 0.5}, lr=0.0025, images_per_second=12.34, eta_s=4321.4,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ lines


def lines(*, every_s: float = 10.0) -> tuple[LineDisplay, io.StringIO, Clock]:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, width=40)
    noon = datetime(2026, 5, 17, 12, 0, 9)
    display = LineDisplay(console, every_s=every_s, clock=clock, now=lambda: noon)
    return display, text, clock


def test_line_display__prints_pairs_on_one_line() -> None:
    display, text, _ = lines()
    display.show(report())
    assert text.getvalue() == (
        "12:00:09 step=120/3000 epoch=1/10 stage=mixing loss=1.2346 loss_box=0.5 lr=0.0025 "
        "images_per_second=12.3 left=1:12:01\n"
    )


def test_line_display__waits_between_lines() -> None:
    display, text, clock = lines(every_s=10)
    for step in range(1, 41):
        display.show(report(step))
        clock.seconds += 1
    shown = [line.split()[1] for line in text.getvalue().splitlines()]
    assert shown == ["step=1/3000", "step=11/3000", "step=21/3000", "step=31/3000"]


def test_line_display__always_prints_the_last_step() -> None:
    display, text, _ = lines()
    display.show(report())
    display.show(report(3000))
    assert "step=3000/3000" in text.getvalue()


def test_line_display__prints_messages_at_once_and_as_they_are() -> None:
    display, text, _ = lines()
    display.message("saved [bold]checkpoints/step-00000120[/bold], AP 0.25 after 2 epochs of 300")
    assert text.getvalue() == (
        "12:00:09 saved [bold]checkpoints/step-00000120[/bold], AP 0.25 after 2 epochs of 300\n"
    )


def test_line_display__says_what_runs_beside() -> None:
    display, text, _ = lines()
    display.beside("evaluating after epoch 3: 7/50")
    display.show(report())
    display.beside("")
    display.show(report(3000))
    first, second = text.getvalue().splitlines()
    assert first.endswith("left=1:12:01 (evaluating after epoch 3: 7/50)")
    assert second.endswith("left=1:12:01")


def test_line_display__says_so_alone_when_nothing_else_is_said() -> None:
    display, text, clock = lines(every_s=10)
    display.show(report(3000))
    for done in range(45):
        display.beside(f"{done}/50")
        clock.seconds += 1
    told = [line.split()[1] for line in text.getvalue().splitlines()[1:]]
    assert told == ["20/50", "30/50", "40/50"]


# ------------------------------------------------------------------------------------------- live


def live(width: int = 140, total_steps: int = 3000) -> tuple[LiveDisplay, Console, Clock]:
    clock = Clock()
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, record=True, legacy_windows=False,
        _environ={"TERM": "xterm"},
    )  # fmt: skip
    return LiveDisplay(console, total_steps=total_steps, clock=clock), console, clock


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_live_display__shows_where_the_run_is() -> None:
    display, console, _ = live()
    display.show(report())
    display.close()
    last = drawn(console).split("\r")[-1]
    for part in (
        "mixing  epoch 1/10", "120/3000", "loss 1.235", "loss_box 0.5", "12.3 images/s",
        "1:12:01 left",
    ):  # fmt: skip
        assert part in last


@pytest.mark.parametrize("width", [80, 140])
def test_live_display__shows_what_runs_beside(width: int) -> None:
    display, console, _ = live(width)
    display.beside("evaluating")
    display.show(report())
    display.close()
    assert "evaluating" in drawn(console).split("\r")[-1]


def long_report() -> StepReport:
    """As long as the numbers of a large run are."""
    return StepReport(
        step=41_234, total_steps=138_600, epoch=289, num_epochs=300, stage="without-mixing",
        values={
            "loss": 1.23456, "loss_cls": 0.51234, "loss_box": 0.61234, "loss_mask": 0.7,
            "grad_norm": 12.5,
        },
        lr=0.0025, images_per_second=1234.56, eta_s=200_000,
    )  # fmt: skip


def last_line(report: StepReport, width: int) -> str:
    display, console, _ = live(width, report.total_steps)
    display.show(report)
    display.close()
    return Text.from_ansi(drawn(console).split("\r")[-1]).plain.splitlines()[0]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_live_display__always_says_where_the_run_is(width: int) -> None:
    line = last_line(long_report(), width)
    assert len(line.rstrip()) <= width
    for part in ("without-mixing  epoch 290/300", " 41234/138600 ", "55:33:20 left"):
        assert part in line


@pytest.mark.parametrize("width", [80, 100, 140])
def test_live_display__cuts_nothing_off(width: int) -> None:
    assert "…" not in last_line(long_report(), width)


@pytest.mark.parametrize(("width", "cells"), [(80, 10), (100, 10), (140, 20)])
def test_live_display__has_a_bar_that_suits_the_terminal(width: int, cells: int) -> None:
    assert sum(last_line(report(), width).count(cell) for cell in "━╸╺") == cells


def test_live_display__shows_the_loss_and_the_speed_on_a_narrow_terminal() -> None:
    assert last_line(report(), 80).rstrip().endswith("left loss 1.235  12.3 images/s")


def test_live_display__shows_the_parts_of_the_loss_where_there_is_room() -> None:
    line = last_line(long_report(), 160)
    assert "loss 1.235  loss_cls 0.5123  loss_box 0.6123  loss_mask 0.7  1234.6 images/s" in line


def test_live_display__leaves_the_parts_out_where_they_do_not_fit() -> None:
    assert last_line(long_report(), 125).rstrip().endswith("left loss 1.235  1234.6 images/s")


@pytest.mark.parametrize("width", [80, 140, 200])
def test_live_display__never_shows_the_norm_of_the_gradient(width: int) -> None:
    assert "grad_norm" not in last_line(long_report(), width)


@pytest.mark.parametrize("width", [80, 140])
def test_live_display__says_that_it_starts(width: int) -> None:
    display, console, _ = live(width)
    display.close()
    line = Text.from_ansi(drawn(console).split("\r")[-1]).plain.splitlines()[0]
    assert line.startswith("starting ")
    assert "   0/3000" in line


def test_live_display__moves_with_the_steps_without_drawing_each() -> None:
    display, console, clock = live()
    display.show(report(120))
    before = drawn(console)
    display.advance(121)
    assert drawn(console) == before
    clock.seconds += 1
    display.advance(122)
    assert "122/3000" in drawn(console).removeprefix(before)
    display.close()


def test_live_display__prints_messages_above_the_bar() -> None:
    display, console, _ = live()
    display.show(report())
    before = drawn(console)
    display.message("AP [0.25]")
    new = drawn(console).removeprefix(before)
    assert new.index("AP [0.25]\n") < new.index("120/3000")
    display.close()


def test_live_display__gives_the_cursor_back() -> None:
    display, console, _ = live()
    display.close()
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert drawn(console).rindex(hidden) < drawn(console).rindex(shown)


# ------------------------------------------------------------------------------------- which, where


def test_display_for__takes_lines_for_a_file(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as file:
        assert isinstance(display_for(rank=0, total_steps=1, stream=file), LineDisplay)


def test_display_for__takes_a_bar_for_a_terminal() -> None:
    controller, terminal = os.openpty()
    with open(controller, "rb"), open(terminal, "w") as stream:
        display = display_for(rank=0, total_steps=1, stream=stream)
        display.close()
    assert isinstance(display, LiveDisplay)


def test_display_for__shows_nothing_of_other_ranks(capfd: pytest.CaptureFixture[str]) -> None:
    display = display_for(rank=1, total_steps=1)
    assert isinstance(display, SilentDisplay)
    display.advance(1)
    display.show(report())
    display.message("something")
    display.close()
    assert capfd.readouterr() == ("", "")


def test_display__outlives_its_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", buffering=1)  # noqa: SIM115 - closing it fails, as it should
    lasting = LastingStream(stream)
    display = LineDisplay(Console(file=lasting))  # type: ignore[arg-type]
    for _ in range(2):
        display.message("nobody reads this")
    assert not lasting.isatty()
    with pytest.raises(BrokenPipeError):
        stream.close()
