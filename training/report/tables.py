"""The tables of a report, as cells that the template lays out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.evaluation.average_precision import Metrics
from training.evaluation.comparison import Kind
from training.evaluation.curves import Curve
from training.evaluation.instances import SIZES
from training.evaluation.metric_titles import TITLES, kinds_of
from training.evaluation.mistake_totals import Totals, totals_by_class, totals_by_size
from training.evaluation.mistakes import Judged, Outcome, Verdict
from training.report import kinds
from training.report.charts import spark_line

#: Detections of these kinds are wrong, in the order of the columns.
_WRONG = (Verdict.CONFUSED, Verdict.POORLY_PLACED, Verdict.DUPLICATE, Verdict.FALSE)


@dataclass(frozen=True)
class Cell:
    """`text` or `drawing` is shown, `value` is sorted by."""

    text: str
    value: float | str
    drawing: Markup | None = None
    is_name: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header. `is_sortable` where a reader may want another order."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_sortable: bool = False


#: What cannot be told; sorts below everything.
_NOTHING = Cell("\u2013", -1.0)


def named(text: str) -> Cell:
    """The cell that names its row."""
    return Cell(text, text.casefold(), is_name=True)


def text(words: str) -> Cell:
    """Words that do not name the row."""
    return Cell(words, words.casefold())


def share(value: float | None) -> Cell:
    """A share with three digits; a dash for None, which sorts last."""
    return _NOTHING if value is None else Cell(f"{value:.3f}", round(value, 6))


def count(value: int) -> Cell:
    """A whole number."""
    return Cell(f"{value:,}".replace(",", "\u202f"), value)


def headline_table(metrics: Metrics) -> Table:
    """All metrics over all objects: a row for each thing that is measured."""
    measured = kinds_of(metrics.values)
    endings = [
        ending
        for ending in TITLES
        if any(f"{kind}_{ending}" in metrics.values for kind in measured)
    ]
    rows = [
        [named(kind), *(share(metrics.values.get(f"{kind}_{ending}")) for ending in endings)]
        for kind in measured
    ]
    return Table(["", *(TITLES[ending] for ending in endings)], rows)


def class_table(
    judged: Judged,
    metrics: Metrics,
    classes: Sequence[str],
    curves: Mapping[Kind, Mapping[str, Curve]],
) -> Table:
    """A row for each class; `curves` by kind, drawn small."""
    totals = totals_by_class(judged, len(classes))
    measured = kinds_of(metrics.values)
    columns = [(kind, ending) for kind in measured for ending in ("ap", "ap50", "ap75")]
    prefix = len(measured) > 1
    header = [
        "class",
        "instances",
        *(f"{kind} {TITLES[ending]}" if prefix else TITLES[ending] for kind, ending in columns),
        *(f"{kind} curve" if prefix else "curve" for kind in curves),
        *_COUNTED,
    ]
    rows = []
    for label, name in enumerate(classes):
        of_class = metrics.per_class.get(name, {})
        drawn = [_spark(of_kind.get(name)) for of_kind in curves.values()]
        figures = [share(of_class.get(f"{kind}_{ending}")) for kind, ending in columns]
        num_instances = int(totals.outcomes[label].sum())
        rows.append([named(name), count(num_instances), *figures, *drawn, *_counted(totals, label)])
    return Table(header, rows, is_sortable=True)


def size_table(judged: Judged, metrics: Metrics) -> Table:
    """A row for each size of objects, with the metrics that are known by size."""
    totals = totals_by_size(judged)
    columns = [
        (kind, ending)
        for kind in kinds_of(metrics.values)
        for ending in ("ap", "ar")
        if any(f"{kind}_{ending}_{size}" in metrics.values for size in SIZES)
    ]
    header = ["size", "instances", *(f"{kind} {ending.upper()}" for kind, ending in columns)]
    bounds = ("< 32²", "32² to 96²", "> 96²")
    rows = []
    for place, (size, bound) in enumerate(zip(SIZES, bounds, strict=True)):
        figures = [share(metrics.values.get(f"{kind}_{ending}_{size}")) for kind, ending in columns]
        num_instances = int(totals.outcomes[place].sum())
        rows.append(
            [
                named(f"{size} ({bound} px)"),
                count(num_instances),
                *figures,
                *_counted(totals, place),
            ]
        )
    return Table([*header, *_COUNTED], rows)


@dataclass(frozen=True)
class KindCount:
    """How often a kind occurs, and what it is."""

    kind: kinds.Kind
    count: int
    meaning: str


def kind_counts(judged: Judged) -> list[KindCount]:
    """How often each kind occurs, as legends order them."""
    verdicts, outcomes = judged.verdicts, judged.outcomes
    counts = {kind: int((verdicts == verdict).sum()) for verdict, kind in kinds.OF_VERDICT.items()}
    counts[kinds.MISSED] = int((outcomes > Outcome.FOUND).sum())
    meanings = {kind: kind.meaning for kind in kinds.ALL}
    reasons = [
        (Outcome.CONFUSED, "detected as another class"),
        (Outcome.POORLY_PLACED, "with a poorly placed detection"),
    ]
    told = [
        f"{number} of them {reason}"
        for outcome, reason in reasons
        if (number := int((outcomes == outcome).sum()))
    ]
    meanings[kinds.MISSED] = "; ".join([kinds.MISSED.meaning, *told])
    return [KindCount(kind, counts[kind], meanings[kind]) for kind in kinds.ALL]


#: The columns of `_counted`.
_COUNTED = (
    "precision",
    "recall",
    "missed",
    *(kinds.OF_VERDICT[verdict].name for verdict in _WRONG),
)


def _counted(totals: Totals, group: int) -> list[Cell]:
    """What is counted from the score threshold on."""
    verdicts: NDArray[np.int64] = totals.verdicts[group]
    outcomes: NDArray[np.int64] = totals.outcomes[group]
    num_right = int(outcomes[Outcome.FOUND])
    num_detections, num_instances = int(verdicts.sum()), int(outcomes.sum())
    return [
        share(int(verdicts[Verdict.RIGHT]) / num_detections if num_detections else None),
        share(num_right / num_instances if num_instances else None),
        count(num_instances - num_right),
        *(count(int(verdicts[verdict])) for verdict in _WRONG),
    ]


def _spark(curve: Curve | None) -> Cell:
    if curve is None:
        return _NOTHING
    some = slice(None, None, 4)
    drawn = spark_line(
        "precision over recall, overlap 0.5", curve.recalls[some], curve.precisions[some]
    )
    return Cell("", round(float(curve.precisions.mean()), 6), drawn)
