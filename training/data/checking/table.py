"""The outcome of a check for people, on a terminal."""

import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from training.data.checking.kinds import Severity
from training.data.checking.report import (
    CheckReport,
    Quantiles,
    ReportedFinding,
    ReportedPlace,
    ReportedSplit,
)

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
#: Places that are shown of a kind; the JSON has more.
_MAX_PLACES = 3
_MAX_CLASSES = 12


def print_report(report: CheckReport, console: Console) -> None:
    """The verdict last, where the eye is when the command ends."""
    console.print(_head(report))
    if report.splits:
        console.print(_splits(report))
        console.print(_classes(report))
    for finding in report.findings:
        console.print(_finding(finding, report.path))
    # One line whatever the width: for `tail -1` too.
    console.print(Text(verdict(report), style=_verdict_style(report)), soft_wrap=True)


def verdict(report: CheckReport) -> str:
    """In one line, whether training would begin, and what else there is."""
    counts = [
        f"{count} kind{'s' if count > 1 else ''} of {severity}"
        for severity in ("error", "warning", "note")
        if (count := report.count_of(severity))
    ]
    found = f" ({', '.join(counts)})" if counts else ": nothing was found"
    most = report.max_unreadable
    if report.refused:
        return f"training would be REFUSED{found}"
    if report.stops:
        return (
            f"training would STOP: {report.num_replaced} images of train cannot be decoded, and a "
            f"run replaces {most}{found}"
        )
    undecoded: list[str] = []
    if report.num_replaced:
        undecoded.append(f"{report.num_replaced} in train would be replaced by others")
    if report.num_left_out > most:
        undecoded.append(f"{report.num_left_out} in val are too many: NOTHING would be evaluated")
    elif report.num_left_out:
        undecoded.append(f"{report.num_left_out} in val would be left out")
    told = f"; of images that cannot be decoded, {' and '.join(undecoded)}" if undecoded else ""
    return f"training would not be refused{told}{found}"


def _verdict_style(report: CheckReport) -> str:
    if report.refused or report.stops:
        return "bold red"
    return "bold yellow" if report.count_of("error") or report.count_of("warning") else "bold green"


def _head(report: CheckReport) -> Text:
    height, width = report.input_size
    guessed = (
        ", as the annotations suggest (--task says otherwise)" if report.task_is_guessed else ""
    )
    form = f"{report.format.upper()} data set" if report.format else "data set"
    decoded = f"{report.num_decoded:,} images decoded" if report.num_decoded else "none decoded"
    line = f"{form} for {report.task} models at {height}x{width}{guessed}; {decoded}"
    return Text.assemble((report.path, "bold"), "\n", line)


def _splits(report: CheckReport) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("SPLIT")
    for name in ("IMAGES", "INSTANCES", "TRAINED ON", "CLASSES"):
        table.add_column(name, justify="right")
    for name in ("IMAGE SIZE", "INSTANCE SIZE", "AT INPUT"):
        table.add_column(name)
    for split in report.splits:
        table.add_row(*_split_cells(split))
    return Padding(table, (1, 0, 0, 0), expand=False)


def _split_cells(split: ReportedSplit) -> tuple[str, ...]:
    used = sum(count > 0 for count in split.instances_by_class.values())
    return (
        split.split,
        f"{split.num_images:,}",
        f"{split.num_instances:,}",
        f"{split.num_trained:,}",
        f"{used}",
        _range(split.image_sizes),
        _range(split.instance_sizes),
        _range(split.instance_sizes_at_input),
    )


def _range(quantiles: Quantiles | None) -> str:
    """The median, and between which the middle nine tenths lie."""
    if quantiles is None:
        return "-"
    _, low, _, middle, _, high, _ = quantiles.values
    return f"{middle:.0f} ({low:.0f}-{high:.0f})"


def _classes(report: CheckReport) -> RenderableType:
    counts = report.splits[0].instances_by_class
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{escape(name)}\u00a0{count:,}" for name, count in ordered[:_MAX_CLASSES])
    more = len(ordered) - _MAX_CLASSES
    rest = f", and {more} more" if more > 0 else ""
    text = f"[dim]CLASSES[/dim]  {shown}{rest}" if ordered else "[dim]CLASSES[/dim]  none"
    return Padding(text, (0, 0, 1, 0), expand=False)


def _finding(finding: ReportedFinding, root: str) -> RenderableType:
    head = Text.assemble(
        (f"{finding.severity:<8}", _STYLES[finding.severity]),
        f"{finding.split:<6}",
        (f"{finding.count:>7,} x ", "bold"),
        finding.title,
        f" ({finding.share})" if finding.share else "",
        (f"  [{finding.kind}]", "dim"),
    )
    below = Text(f"→ {finding.advice}\n", overflow="fold")
    below.append("\n".join(_places(finding, root)), style="dim")
    return Group(head, Padding(below, (0, 0, 1, 14), expand=False))


def _places(finding: ReportedFinding, root: str) -> Iterator[str]:
    if is_of_classes(finding):
        shown = finding.places
        told = (
            f"{each.record[6:]} ({each.what})" if each.what else each.record[6:] for each in shown
        )
        more = finding.count - len(shown)
        yield ", ".join(told) + (f", and {more:,} more" if more else "")
        return
    shown = finding.places[:_MAX_PLACES]
    for place in shown:
        yield place_line(place, root)
    if finding.count > len(shown):
        yield f"and {finding.count - len(shown):,} more"


def is_of_classes(finding: ReportedFinding) -> bool:
    """Whether its places are classes: all in one file, so that their names say it all."""
    return all(place.record.startswith("class ") for place in finding.places)


def place_line(place: ReportedPlace, root: str) -> str:
    """Where it is, below the folder `root`, and what is the matter there."""
    parts = [_below(place.file, root)]
    if place.record:
        parts.append(place.record)
    if place.image is not None and place.image != place.file:
        parts.append(f"({Path(place.image).name})")
    return (
        ", ".join(parts[:2])
        + "".join(f" {each}" for each in parts[2:])
        + (f": {_below(place.what, root)}" if place.what else "")
    )


def _below(text: str, root: str) -> str:
    """The text with its paths told from the folder on that is checked."""
    for place in (root, str(Path(root).resolve())):
        # Where a path begins: folders within may be called like the one that is checked.
        if place.strip("./"):
            text = re.sub(rf"(?<![^\s'(]){re.escape(place.rstrip('/'))}/", "", text)
    return text
