"""The doctor for data sets: `rtmdet data check`.

    rtmdet data check shop --recipe rtmdet-ins-tiny-finetune --html shop.html

It prints a table, or JSON; progress goes to stderr. Exit codes: 0 where training would begin, 1
where it would be refused, or stop since too many images cannot be decoded, 2 for the caller's
mistakes.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.command_line import EXIT_MISTAKE, one_line_errors, parse_input_size

if TYPE_CHECKING:
    from training.data.checking.check import Checked, Request
    from training.data.checking.images import Reading
    from training.data.checking.report import CheckReport

EXAMPLE = """Example: rtmdet data check shop --recipe rtmdet-tiny-finetune --html shop.html. The
exit code is 0 where training would begin, and 1 where it would be refused, or stop since too many
images cannot be decoded."""

#: The data must be mended.
EXIT_REFUSED = 1
assert EXIT_REFUSED != EXIT_MISTAKE

#: Lines of a table that goes into a file.
_FILE_WIDTH = 140


@one_line_errors
def check(  # noqa: PLR0913 - one parameter for each option of the command
    path: Annotated[Path, typer.Argument(help="A data set: COCO, DOTA or YOLO.")],
    task: Annotated[
        Literal["detect", "instance", "rotated"] | None,
        typer.Option(help="What is to be trained; by default what the annotations suggest."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe that is to train: its task, size and settings.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(help="The network's input, as in 640 or 416x640.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with drawn samples to this file.")
    ] = None,
    decodes: Annotated[
        bool, typer.Option("--decode/--no-decode", help="Decode images, or look at heads alone.")
    ] = True,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Images decoded at once; by default one a core.")
    ] = None,
    max_images: Annotated[
        int | None,
        typer.Option(min=1, help="Open so many images of a split; annotations are all read."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for anything but notes.")
    ] = False,
) -> None:
    """Find what is wrong with a data set before a GPU is taken."""
    from training.data.checking.check import Request
    from training.data.checking.images import Reading

    if html is not None:
        _require_writable(html)
    request = Request(path, task, recipe, parse_input_size(input_size))
    checked = _checked(request, Reading(jobs or _num_cores(), decodes, max_images))
    _show(checked.report, as_json=json)
    page_is_written = html is None or _write_page(html, checked)
    report = checked.report
    is_spoilt = bool(report.count_of("error") or report.count_of("warning"))
    if report.refused or report.stops or (strict and is_spoilt):
        raise typer.Exit(EXIT_REFUSED)
    if not page_is_written:
        raise typer.Exit(EXIT_MISTAKE)


def _require_writable(page: Path) -> None:
    """Raise ValueError for a file that cannot be written: better now than after the check."""
    if page.is_dir():
        raise ValueError(f"{page}: is a folder; --html names the file of the page")
    there = next(folder for folder in page.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"{page}: {there} cannot be written to; name another file with --html")


def _checked(request: "Request", reading: "Reading") -> "Checked":
    from training.data.checking.check import check_data
    from training.data.checking.progress import ProgressLine, quiet_decoders

    progress = ProgressLine()
    try:
        with quiet_decoders():
            return check_data(request, reading, progress)
    finally:
        progress.close()


def _show(report: "CheckReport", *, as_json: bool) -> None:
    from rich.console import Console

    from training.data.checking.table import print_report

    if as_json:
        typer.echo(report.as_json())
        return
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    console = Console(width=width, highlight=False)
    # Rich would end the command in a way of its own once nobody reads.
    with console.capture() as captured:
        print_report(report, console)
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    # Not every terminal has the letters of every class.
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(text.encode(encoding, "replace").decode(encoding))


def _write_page(file: Path, checked: "Checked") -> bool:
    """Whether it could be written; what was found is told already and holds in any case."""
    from training.data.checking.page import write_page
    from training.data.checking.progress import quiet_decoders

    try:
        with quiet_decoders():
            write_page(file, checked)
    except OSError as error:
        typer.echo(f"rtmdet: {file}: the page cannot be written: {error.strerror}", err=True)
        return False
    typer.echo(f"the page: {file}", err=True)
    return True


def _num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
