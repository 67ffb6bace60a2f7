"""How a command reports mistakes, reads sizes and prints tables. Torch-free."""

import errno
import functools
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, ParamSpec

import typer

from model.checkpoints.download import DownloadFailed
from model.manifest import valid_input_size

#: The caller's mistake, and a failure that is not the caller's.
EXIT_MISTAKE = 2
EXIT_FAILURE = 1

#: What a shell gives for a command whose reader went away, as in `rtmdet models list | head -1`.
EXIT_UNREAD = 141

#: The machine has no room or is broken: no other command line would do better.
_OF_THE_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

#: Which extra brings a module that the package can be installed without.
_EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnxscript", "onnx_ir", "safetensors"), "export"),
    **dict.fromkeys(("faster_coco_eval", "jinja2", "markupsafe", "psutil", "yaml"), "train"),
    **dict.fromkeys(("openvino", "pydantic_settings"), "serve"),
}

_PROJECT = Path(__file__).resolve().parent.parent

Parameters = ParamSpec("Parameters")


def one_line_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose expected errors are one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            quiet_when_unread(command)(*args, **kwargs)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            _fail(f"this command needs the {extra} extra: {how_to_get(extra)}", EXIT_MISTAKE)
        except ValueError as error:
            _fail(str(error), EXIT_MISTAKE)
        except DownloadFailed as error:
            _fail(str(error), EXIT_FAILURE)
        except OSError as error:
            _fail(told(error))

    return run


def how_to_get(extra: str, project: Path = _PROJECT) -> str:
    """The command that brings an extra to where this runs."""
    made_by_make = (project / "Makefile").is_file() and (project / ".venv").is_dir()
    if made_by_make and (project / ".venv").samefile(sys.prefix):
        return f"make setup (in {project})"
    return f"pip install '.[{extra}]' in the project's folder"


def told(error: OSError) -> str:
    """The error in a line: which file, and what."""
    return ": ".join(map(str, filter(None, (error.filename, error.strerror)))) or str(error)


def exit_code_of(error: OSError) -> int:
    """Whether the caller could mend it."""
    return EXIT_FAILURE if error.errno in _OF_THE_MACHINE else EXIT_MISTAKE


def print_whole(text: str) -> None:
    """Print what is of no use in part. Raises OSError where it does not all arrive."""
    stdout = sys.stdout
    if stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - it may be closed
        raise OSError(errno.EBADF, "it is closed", "standard output")
    stdout.flush()
    rest = memoryview(f"{text}\n".encode(stdout.encoding, stdout.errors or "strict"))
    try:
        while rest:
            # With PYTHONUNBUFFERED a write takes what there is room for, and no more.
            rest = rest[stdout.buffer.write(rest) :]
        stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def quiet_when_unread(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command that ends without a word once nobody reads what it prints."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            if not _drop_what_nobody_reads():
                raise
            raise typer.Exit(EXIT_UNREAD) from None
        except OSError:
            _drop_what_cannot_be_written()
            raise

    return run


def _drop_what_nobody_reads() -> bool:
    """Point a standard stream whose reader is gone to nowhere; whether there was one.

    Other pipes break too, of worker processes and connections: those are errors.
    """
    dropped = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if poll.poll(0):
                _to_nowhere(stream.fileno())
                dropped = True
    return dropped


def _drop_what_cannot_be_written() -> None:
    """Let a full disk be told once: Python would try again when it ends, with a code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            _to_nowhere(sys.stdout.fileno())
    except (AttributeError, ValueError):
        # There is none, or it is closed.
        return


def _to_nowhere(descriptor: int) -> None:
    """What Python flushes when it ends must go somewhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _fail(message: str, exit_code: int = EXIT_FAILURE) -> NoReturn:
    typer.echo(f"rtmdet: {' '.join(message.split())}", err=True)
    raise typer.Exit(exit_code)


def parse_input_size(text: str | None) -> tuple[int, int] | None:
    """`640` or `416x640` as (height, width) in pixels; raises ValueError.

    >>> parse_input_size("640")
    (640, 640)
    """
    if text is None:
        return None
    sides = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if sides is None:
        raise ValueError(f"input size '{text}': pixels are written 640, or HEIGHTxWIDTH")
    return valid_input_size((int(sides[1]), int(sides[2] or sides[1])))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, for people and for `grep`; no line is broken."""
    lines = [header, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
