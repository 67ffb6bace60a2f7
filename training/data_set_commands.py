"""The commands that make data sets: `rtmdet data shapes` and `rtmdet data convert`.

    rtmdet data shapes shapes --train 10000 --val 500 --size 320
    rtmdet data convert shop shop-yolo --to yolo --task detect

Each prints the folder that was written, which appears as a whole; progress and remarks go to
stderr.
"""

import json as json_format
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast, get_args

import typer

from model.command_line import EXIT_MISTAKE, one_line_errors
from model.config import Task

if TYPE_CHECKING:
    from training.data.synthetic.scene_records import ShapesLayout

app = typer.Typer(rich_markup_mode=None)

#: A shell adds a signal's number to this in the exit code of a command that it ended.
_EXIT_SIGNALLED = 128

#: Scenes for which a process of their own is worth its start.
_SCENES_PER_PROCESS = 100


@app.command(epilog="Example: rtmdet data shapes shapes --train 10000 --val 500 --size 320")
@one_line_errors
def shapes(
    out: Annotated[Path, typer.Argument(help="The folder of the set, which is made.")],
    train: Annotated[int, typer.Option(help="Images to train on.")] = 2000,
    val: Annotated[int, typer.Option(help="Images to evaluate on.")] = 200,
    size: Annotated[int, typer.Option(help="Pixels a side, 32 to 2048.")] = 640,
    seed: Annotated[int, typer.Option(help="Other seeds give other scenes.")] = 0,
    layout: Annotated[
        str,
        typer.Option(
            help="all (COCO and DOTA beside the same images, for every task), coco, dota, yolo "
            "(boxes), yolo-polygons (whole outlines), yolo-oriented (corners)."
        ),
    ] = "all",
    jobs: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes; by default one for each core.")
    ] = None,
) -> None:
    """Write synthetic scenes of shapes with boxes, visible masks and rotated boxes.

    The same seed gives the same files, however many processes write them.
    """
    from training.data.synthetic.data_set import ShapesPlan, write_shapes

    # The plan refuses layouts that there are not.
    known = cast("ShapesLayout", layout)
    plan = ShapesPlan(num_train=train, num_val=val, size=size, seed=seed, layout=known)
    worthwhile = 1 + (train + val) // _SCENES_PER_PROCESS
    processes = jobs or min(len(os.sched_getaffinity(0)), worthwhile)
    told = _told_by_tenths()
    with _stop_signals_as_errors():
        write_shapes(
            out, plan, jobs=processes, progress=lambda done, total: told("writing", done, total)
        )
    typer.echo(out)


@app.command(epilog="Example: rtmdet data convert DOTA dota-yolo --to yolo")
@one_line_errors
def convert(
    source: Annotated[Path, typer.Argument(help="A data set: COCO, DOTA or YOLO.")],
    out: Annotated[Path, typer.Argument(help="The folder of the new set, which is made.")],
    to: Annotated[str, typer.Option(help="The new format: coco, dota or yolo.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="detect, instance or rotated: boxes, polygons or corners for YOLO, boxes alone "
            "or outlines for COCO. By default as much as there is."
        ),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link/--copy", help="Link to the images, or copy them.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Rewrite train and val of a data set in another format, and say what that cannot hold.

    Images stay as they are, byte for byte; those in folders get the folder into their names.
    """
    from training.data.formats.checks import BrokenData
    from training.data.formats.layouts import DataFormat
    from training.data.writing.conversion import Conversion
    from training.data.writing.conversion import convert as convert_set

    formats: dict[str, DataFormat] = {name: name for name in get_args(DataFormat)}
    tasks: dict[str, Task] = {name: name for name in get_args(Task)}
    if to not in formats:
        raise ValueError(f"unknown format '{to}'; there are: {', '.join(formats)}")
    if task is not None and task not in tasks:
        raise ValueError(f"unknown task '{task}'; there are: {', '.join(tasks)}")
    conversion = Conversion(to=formats[to], task=None if task is None else tasks[task], link=link)
    try:
        with _stop_signals_as_errors():
            converted = convert_set(source, out, conversion, _told_by_tenths())
    except BrokenData as error:
        typer.echo(f"rtmdet: {error.report()}", err=True)
        raise typer.Exit(EXIT_MISTAKE) from None
    if json:
        content = {
            "out": str(out),
            "task": converted.task,
            "images": converted.num_images,
            "remarks": converted.remarks,
        }
        typer.echo(json_format.dumps(content))
        return
    for remark, count in converted.remarks.items():
        typer.echo(f"{count} x {remark}", err=True)
    typer.echo(out)


@contextmanager
def _stop_signals_as_errors() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an error does, so that nothing is left half-written.

    Signals that were ignored before (nohup) stay ignored.
    """

    def leave(number: int, _frame: object) -> NoReturn:
        sys.exit(_EXIT_SIGNALLED + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told_by_tenths() -> Callable[[str, int, int], None]:
    """A line on stderr for each tenth of what is done."""
    last: tuple[str, int] | None = None

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        tenths = done * 10 // total
        if (what, tenths) != last:
            last = what, tenths
            typer.echo(f"{what}: {done:,} of {total:,} images", err=True)

    return tell
