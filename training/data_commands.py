"""The command on data sets: `rtmdet data tile`.

    rtmdet data tile DOTA DOTA-1024 --overlap 200

It prints the folder that was written, progress goes to stderr. Interrupted, it goes on when it is
called again.
"""

import json as json_format
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.command_line import EXIT_MISTAKE, one_line_errors
from model.durable import move_into_place, part_of
from training.data_check_command import EXAMPLE as CHECK_EXAMPLE
from training.data_check_command import check

if TYPE_CHECKING:
    from training.data.formats.layouts import DataSource
    from training.data.formats.tiling import Tiling

data = typer.Typer(help="Check and prepare data sets.", no_args_is_help=True, rich_markup_mode=None)
data.command(epilog=" ".join(CHECK_EXAMPLE.split()))(check)

#: Says, while the work lasts, for what it is done.
_ASKED_FILE = "asked.json"

_LARGEST_PATCH = 8192


@data.command(epilog="Example: rtmdet data tile DOTA DOTA-multi --scales 0.5,1,1.5 --overlap 500")
@one_line_errors
def tile(
    source: Annotated[Path, typer.Argument(help="A DOTA data set: train/images, train/labelTxt.")],
    out: Annotated[Path, typer.Argument(help="The folder of patches, which is made.")],
    patch_size: Annotated[
        int, typer.Option(min=1, max=_LARGEST_PATCH, help="Side of a patch in pixels.")
    ] = 1024,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that neighbours share.")] = 200,
    scales: Annotated[
        str, typer.Option(help="Factors, between commas, by which images are resized before.")
    ] = "1",
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Cut the large images of a DOTA data set, train and val, into patches to train on."""
    from training.data.formats.checks import BrokenData
    from training.data.formats.tiling import Tiling

    tiling = Tiling(patch_size=patch_size, overlap=overlap, scales=_parsed_scales(scales))
    try:
        num_patches = _tile_splits(_splits(source), out, tiling)
    except BrokenData as error:
        typer.echo(f"rtmdet: {error.report()}", err=True)
        raise typer.Exit(EXIT_MISTAKE) from None
    typer.echo(json_format.dumps({"out": str(out), "patches": num_patches}) if json else out)


def _parsed_scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"scales '{text}': factors are written 1, or 0.5,1,1.5") from None


def _splits(path: Path) -> "list[DataSource]":
    from training.data.formats.layouts import find_data

    found = find_data(path, "rotated")
    if found.train.format != "dota":
        raise ValueError(
            f"{path}: is a data set in {found.train.format.upper()}'s layout; only DOTA's, with "
            "train/images and train/labelTxt, is cut into patches"
        )
    return [split for split in (found.train, found.val) if split is not None]


def _tile_splits(splits: "list[DataSource]", out: Path, tiling: "Tiling") -> dict[str, int]:
    """Cut all splits; `out` appears when all are done. How many patches each has."""
    from training.data.formats.tiling import tile_dataset
    from training.data.indexing.fingerprint import fingerprint

    if out.exists():
        raise ValueError(f"{out}: is there already; remove it or name another folder")
    places = [[str(place.absolute()) for place in (*s.images, *s.annotations)] for s in splits]
    # What was cut before a label was corrected is not what would be cut now.
    asked = {"places": places, "files": [fingerprint(s) for s in splits], **asdict(tiling)}
    part = part_of(out)
    _begin(part, json_format.dumps(asked))
    for split in splits:
        # A split that is there was finished before an interruption.
        if not (part / split.split).exists():
            (images,), (labels,) = split.images, split.annotations
            progress = _told(split.split)
            tile_dataset(images, labels, part / split.split, tiling=tiling, progress=progress)
    (part / _ASKED_FILE).unlink()
    move_into_place(part, out)
    return {
        split.split: sum(1 for _ in (out / split.split / "images").iterdir()) for split in splits
    }


def _begin(part: Path, asked: str) -> None:
    """Make the folder to work in, or go on in it if the same was asked."""
    file = part / _ASKED_FILE
    if not (file.is_file() and file.read_text("utf-8") == asked):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        file.write_text(asked, "utf-8")


def _told(split: str) -> Callable[[int, int], None]:
    """A line on stderr for each tenth of the images."""
    tenths_told = -1

    def tell(done: int, total: int) -> None:
        nonlocal tenths_told
        tenths = done * 10 // total
        if tenths != tenths_told:
            tenths_told = tenths
            typer.echo(f"{split}: {done} of {total} images", err=True)

    return tell
