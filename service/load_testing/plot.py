"""A bench as a picture: over the rates, or of one rate its percentiles and how it went in time."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from service.load_testing.chart import Axis, Chart, Mark, Series, shapes_of
from service.load_testing.drawing import Drawing, Shape, Text, png_of, svg_of
from service.load_testing.exchanges import Outcome
from service.load_testing.report import Bench
from service.load_testing.statistics import PERCENTILES, RunFigures

#: Endings of files that can be written.
FORMATS = (".svg", ".html", ".png")

_WIDTH, _HEIGHT = 1040, 480
_TOP = 76

#: Dots of one run that are drawn at most: the slowest, and evenly chosen others.
_MAX_DOTS = 3000

#: Colours that people with any colour vision tell apart (after Okabe and Ito).
_BLUE, _GREEN, _ORANGE, _RED, _PURPLE = "#0072b2", "#009e73", "#e69f00", "#d55e00", "#aa4499"
_GREY = "#777777"

_PERCENTILE_COLOURS: Mapping[str, str] = {
    "p50": _BLUE,
    "p90": _GREEN,
    "p95": _ORANGE,
    "p99": _RED,
    "p99.9": _PURPLE,
}
_RATE = "offered rate, requests/s"
_LATENCY = "latency, ms"


def write_plot(bench: Bench, path: Path) -> None:
    """Write the picture in the format that the name ends with. Raises ValueError, OSError."""
    require_format(path)
    drawing = draw(bench)
    if path.suffix == ".png":
        path.write_bytes(png_of(drawing))
    elif path.suffix == ".svg":
        path.write_text(svg_of(drawing), encoding="utf-8")
    else:
        page = (
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            f"<title>{escape(drawing.title)}</title>\n"
            f"<style>body{{margin:1rem;background:#fff}}svg{{max-width:100%;height:auto}}</style>\n"
            f"{svg_of(drawing)}</html>\n"
        )
        path.write_text(page, encoding="utf-8")


def require_format(path: Path) -> None:
    """Raises ValueError for a name that does not say which format is wanted."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a plot's name ends with {', '.join(FORMATS)}")


def draw(bench: Bench) -> Drawing:
    """Two charts beside each other."""
    runs = [run for run in bench.runs if run.is_valid]
    is_one = len({run.rate_per_s for run in bench.runs}) == 1
    charts = [_percentile_curve, _course] if is_one else [_latency_by_rate, _outcome_by_rate]
    title = f"rtmdet bench: {bench.target['method']} {bench.target['url']}"
    shapes: list[Shape] = [
        Text(title, (20, 30), 17, is_bold=True),
        Text(_subtitle(bench), (20, 52), 12, colour="#555555"),
    ]
    if not runs:
        middle = (_WIDTH / 2, _HEIGHT / 2)
        shapes.append(Text("No run was valid: there is nothing to show.", middle, 15, "middle"))
    for number, chart in enumerate(charts if runs else []):
        shapes += shapes_of(
            chart(runs), 20 + number * _WIDTH / 2, _TOP, _WIDTH / 2 - 26, _HEIGHT - _TOP - 4
        )
    return Drawing(_WIDTH, _HEIGHT, title, shapes)


def _subtitle(bench: Bench) -> str:
    plan = bench.plan
    deadline = plan["deadline_ms"]
    parts = [
        f"{plan['arrivals']} arrivals, {plan['seconds']:g} s each after {plan['warm_up_s']:g} s",
        f"deadline {deadline:g} ms" if isinstance(deadline, float) else "no deadline",
        f"seed {plan['seed']}",
        f"version {bench.about['version']}",
        str(bench.about["started"]),
    ]
    if bench.search is not None and bench.search.rate_per_s is not None:
        wanted = ", ".join(each.text for each in bench.search.objectives)
        parts.insert(0, f"{wanted}: kept at {bench.search.rate_per_s:.4g}/s")
    invalid = sorted({run.rate_per_s for run in bench.runs if not run.is_valid})
    if invalid:
        parts.append("invalid, not shown: " + ", ".join(f"{rate:.4g}/s" for rate in invalid))
    return "  ·  ".join(parts)


def _latency_by_rate(runs: Sequence[RunFigures]) -> Chart:
    def at(name: str) -> Callable[[RunFigures], float]:
        return lambda run: math.nan if run.latency is None else _ms(run.latency.percentiles_s[name])

    series = [
        Series(name, _by_rate(runs, at(name)), colour)
        for name, colour in _PERCENTILE_COLOURS.items()
    ]
    return Chart(
        "Latency of answers, from the scheduled time",
        Axis.over(_RATE, (run.rate_per_s for run in runs)),
        Axis.over(_LATENCY, _heights(series, _deadlines_ms(runs)), is_log=True),
        series,
        _deadline_marks(runs),
    )


def _outcome_by_rate(runs: Sequence[RunFigures]) -> Chart:
    def of(count: Callable[[RunFigures], float]) -> list[tuple[float, float]]:
        return _by_rate(runs, lambda run: count(run) / run.seconds)

    has_deadline = any(_deadlines_ms(runs))
    series = [
        Series("answered", of(lambda run: run.counts.answered), _BLUE),
        Series("in time", of(lambda run: run.counts.in_time), _GREEN),
        Series("refused", of(lambda run: run.counts.refused), _ORANGE),
        Series("expired", of(lambda run: run.counts.expired), _PURPLE),
        Series("failed", of(lambda run: run.counts.failed), _RED),
        # Drawn last, for answers lie on it as long as all is well.
        Series("offered", of(lambda run: run.counts.scheduled), _GREY, True, dot_radius=0),
    ]
    # Without a deadline every answer is in time; what never happened needs no line.
    series = [
        each
        for each in series
        if (has_deadline or each.name != "in time")
        and (each.name in ("answered", "in time") or any(y for _, y in each.points))
    ]
    return Chart(
        "What became of the requests",
        Axis.over(_RATE, (run.rate_per_s for run in runs)),
        Axis.over("requests/s", _heights(series)),
        series,
    )


def _percentile_curve(runs: Sequence[RunFigures]) -> Chart:
    """Over the share of slower requests, by powers of ten, so that the tail has room."""
    latencies_s = np.sort(np.concatenate([run.latencies_s for run in runs]))
    number = len(latencies_s)
    # How many are slower: thinned where a thousand would stand in one pixel.
    slower = np.unique(np.geomspace(1, number, 400).astype(int)) if number else np.zeros(0, int)
    points = [
        (-math.log10(count / number), _ms(float(latencies_s[number - count])))
        for count in slower[::-1].tolist()
    ]
    tail = max((x for x, _ in points), default=1.0)
    labels = [(0.0, "0"), *((-math.log10(1 - share), name) for name, share in PERCENTILES.items())]
    labels.append((4.0, "p99.99"))
    # p95 would stand on p90's feet.
    shown = [(x, word) for x, word in labels if x <= tail * 1.02 and word != "p95"]
    series = [Series("answered requests", points, _BLUE, dot_radius=0)]
    return Chart(
        "Percentiles of latency, from the scheduled time",
        Axis("percentile (tail magnified)", 0.0, max(tail * 1.02, 0.5), labels=shown),
        Axis.over(_LATENCY, _heights(series, _deadlines_ms(runs)), is_log=True),
        series,
        _deadline_marks(runs),
    )


def _course(runs: Sequence[RunFigures]) -> Chart:
    names = {
        "answered": _BLUE,
        "late": _ORANGE,
        "refused": _GREY,
        "expired": _PURPLE,
        "failed": _RED,
    }
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for run in runs:
        for index in _chosen(run.points[:, 1]):
            scheduled_s, latency_s = run.points[index].tolist()
            outcome = run.outcomes[index]
            is_late = run.deadline_s is not None and latency_s > run.deadline_s
            name = "late" if is_late and outcome is Outcome.ANSWERED else outcome.value
            points[name].append((scheduled_s, _ms(latency_s)))
    series = [
        Series(name, points[name], colour, has_line=False, dot_radius=2)
        for name, colour in names.items()
        if points[name]
    ]
    return Chart(
        "Each request, by when it was scheduled",
        Axis.over("time since the start, s", (x for each in series for x, _ in each.points)),
        Axis.over(_LATENCY, _heights(series, _deadlines_ms(runs)), is_log=True),
        series,
        _deadline_marks(runs),
    )


def _chosen(latencies_s: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[int]:
    """Indices of the requests that are drawn."""
    if len(latencies_s) <= _MAX_DOTS:
        return list(range(len(latencies_s)))
    slowest = np.argsort(latencies_s)[-_MAX_DOTS // 4 :]
    others = np.linspace(0, len(latencies_s) - 1, _MAX_DOTS - len(slowest)).astype(int)
    return np.union1d(slowest, others).tolist()


def _by_rate(
    runs: Sequence[RunFigures], value: Callable[[RunFigures], float]
) -> list[tuple[float, float]]:
    """The mean of the runs at each rate."""
    rates = sorted({run.rate_per_s for run in runs})
    return [
        (rate, statistics.fmean(value(run) for run in runs if run.rate_per_s == rate))
        for rate in rates
    ]


def _heights(series: Sequence[Series], others: Sequence[float] = ()) -> list[float]:
    return [*(y for each in series for _, y in each.points), *others]


def _deadlines_ms(runs: Sequence[RunFigures]) -> list[float]:
    return sorted({_ms(run.deadline_s) for run in runs if run.deadline_s is not None})


def _deadline_marks(runs: Sequence[RunFigures]) -> list[Mark]:
    return [Mark(value, f"deadline {value:g} ms") for value in _deadlines_ms(runs)]


def _ms(seconds: float) -> float:
    return 1000 * seconds
