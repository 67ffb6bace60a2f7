"""How a command reports mistakes, reads sizes and prints tables. Torch-free."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NoReturn, ParamSpec

import typer

from model.checkpoints.download import DownloadFailed
from model.manifest import valid_input_size

#: The caller's mistake, and a failure that is not the caller's.
EXIT_MISTAKE = 2
EXIT_FAILURE = 1

#: Modules that only the export extra brings.
_EXPORT_EXTRA = {"torch", "onnx", "onnxscript", "onnx_ir", "safetensors"}

Parameters = ParamSpec("Parameters")


def one_line_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose expected errors are one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _EXPORT_EXTRA:
                raise
            _fail(
                "this command needs the export extra: pip install '.[export]' in the "
                "project's folder",
                EXIT_MISTAKE,
            )
        except ValueError as error:
            _fail(str(error), EXIT_MISTAKE)
        except DownloadFailed as error:
            _fail(str(error), EXIT_FAILURE)
        except OSError as error:
            _fail(": ".join(map(str, filter(None, (error.filename, error.strerror)))) or str(error))

    return run


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
