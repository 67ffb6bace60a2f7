"""What `rtmdet detect` prints of each picture, wherever the detecting is done."""

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import typer

from model.command_line import print_whole
from model.durable import part_of

#: Detects in the picture at a path, draws it to the other path if there is one, and gives what is
#: to be printed. Raises PictureFailed or OSError where the picture is at fault.
DetectOne = Callable[[Path, Path | None], Coroutine[None, None, str]]


class PictureFailed(Exception):
    """One picture has no result, and the others may."""


class NotDrawn(OSError):
    """A drawn picture cannot be written; neither can the others."""


class Found(Protocol):
    """What a line tells of a detection."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def score(self) -> float: ...  # noqa: D102
    @property
    def box(self) -> tuple[float, float, float, float]: ...  # noqa: D102


async def print_in_order(
    images: Sequence[Path], out: Path | None, detect_one: DetectOne, *, at_once: int
) -> int:
    """Detect in so many pictures at once and print in their order; how many failed.

    A bad one is reported and the rest go on.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    waiting: deque[tuple[Path, asyncio.Task[str]]] = deque()
    failed = 0
    try:
        for path, drawn_path in zip(images, _drawn_paths(images, out), strict=True):
            if len(waiting) == at_once:
                failed += not await _printed(*waiting.popleft())
            waiting.append((path, asyncio.create_task(detect_one(path, drawn_path))))
        while waiting:
            failed += not await _printed(*waiting.popleft())
    finally:
        for _, task in waiting:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
    return failed


async def _printed(path: Path, task: asyncio.Task[str]) -> bool:
    """Whether there was something to print."""
    try:
        text = await task
    except PictureFailed as error:
        typer.echo(f"{shown(path)}: {error}", err=True)
    except NotDrawn:
        raise
    except OSError as error:
        typer.echo(f"{shown(error.filename or path)}: {error.strerror or error}", err=True)
    else:
        print_whole(text)
        return True
    return False


def shown(path: Path | str) -> str:
    r"""The name of a file as text, which JSON and terminals can take.

    >>> shown(os.fsdecode(b"caf\xe9.jpg"))
    'caf\\xe9.jpg'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_picture(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, which need not end. Raises OSError, PictureFailed."""
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise PictureFailed(f"it has more than the {max_bytes} bytes that a picture may have")
    return content


def write_drawn(path: Path, content: bytes) -> None:
    """Write a drawn picture: whole, or not at all. Raises NotDrawn."""
    part = part_of(path)
    try:
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NotDrawn(error.errno, error.strerror, shown(path)) from error


def _drawn_paths(images: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Where each picture is drawn to; pictures of the same name get numbers."""
    if out is None:
        return [None] * len(images)
    taken: Counter[str] = Counter()
    paths: list[Path | None] = []
    for path in images:
        taken[path.stem] += 1
        number = f"-{taken[path.stem]}" if taken[path.stem] > 1 else ""
        paths.append(out / f"{path.stem}{number}.detected.jpg")
    return paths


def listing(
    path: Path,
    detections: Sequence[Found],
    drawn_path: Path | None,
    *,
    model_name: str,
    total_ms: float,
) -> str:
    """What a person reads: a line per picture, a line per detection."""
    count = len(detections)
    counted = f"{count} detection" if count == 1 else f"{count} detections"
    lines = [f"{shown(path)}: {counted}, {model_name}, {round(total_ms)} ms"]
    for found in detections:
        x1, y1, x2, y2 = (round(side) for side in found.box)
        lines.append(f"  {found.score:.2f}  {found.label:<20} {x1},{y1} - {x2},{y2}")
    if drawn_path is not None:
        lines.append(f"  drawn: {shown(drawn_path)}")
    return "\n".join(lines)
