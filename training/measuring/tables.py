"""A measurement as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from training.evaluation.metric_titles import TITLES, TITLES_BY_SIZE, kinds_of
from training.measuring.measurement import Measurement

#: Columns where output is no terminal, so that no line is broken.
_WIDE = 200

#: Those that stand beside every class.
_OF_CLASSES = ("ap", "ap50", "ap75")


def print_measurement(measurement: Measurement) -> None:
    """Print all figures, by size, by class, and what was measured with what."""
    width = None if Console().is_terminal else _WIDE
    # Names are not ours: what looks like markup in them is none.
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    for name, text in measurement.facts().items():
        console.print(f"{name:<9} {text}", soft_wrap=True)
    console.print()
    kinds = kinds_of(measurement.metrics.values)
    if kinds:
        console.print(_detector_figures(measurement, kinds))
        console.print()
        console.print(_detector_classes(measurement, kinds))
    else:
        console.print(_classifier_figures(measurement))


def _detector_figures(measurement: Measurement, kinds: Sequence[str]) -> Table:
    table = _table("ALL CLASSES", *(kind.upper() for kind in kinds))
    values = measurement.metrics.values
    for name, title in (TITLES | TITLES_BY_SIZE).items():
        figures = [values.get(f"{kind}_{name}") for kind in kinds]
        if any(figure is not None for figure in figures):
            table.add_row(title, *map(_figure, figures))
    return table


def _detector_classes(measurement: Measurement, kinds: Sequence[str]) -> Table:
    titles = [f"{kind.upper()} {TITLES[name]}" for kind in kinds for name in _OF_CLASSES]
    table = _table("CLASS", "INSTANCES", "DETECTIONS", *titles)
    for name, counts in measurement.counts.items():
        values = measurement.metrics.per_class.get(name, {})
        figures = [_figure(values.get(f"{kind}_{each}")) for kind in kinds for each in _OF_CLASSES]
        table.add_row(name, f"{counts.instances:,}", f"{counts.detections or 0:,}", *figures)
    return table


def _classifier_figures(measurement: Measurement) -> Table:
    table = _table("CLASS", "IMAGES", "TOP-1", "TOP-5")
    metrics = measurement.metrics
    rows = [("all", metrics.num_images, metrics.values)]
    for name, counts in measurement.counts.items():
        rows.append((name, counts.instances, metrics.per_class.get(name, {})))
    for name, count, values in rows:
        table.add_row(name, f"{count:,}", _figure(values.get("top1")), _figure(values.get("top5")))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
