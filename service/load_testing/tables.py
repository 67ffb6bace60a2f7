"""A bench as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from service.load_testing.objectives import CONFIDENCE, RUNS_THAT_AGREE, SearchResult
from service.load_testing.report import Bench
from service.load_testing.statistics import PERCENTILES, Distribution, RunFigures

#: Columns where output is no terminal, so that no line is broken.
_WIDE = 160


def print_bench(bench: Bench) -> None:
    """Print what was asked, what became of it, how long it took, and where the time went."""
    width = None if Console().is_terminal else _WIDE
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    console.print(_counts(bench.runs))
    console.print()
    console.print(_latencies(bench.runs))
    if any(run.stages_s for run in bench.runs):
        console.print()
        console.print(_stages(bench.runs))
    console.print()
    console.print(_generator(bench.runs))
    notes = [note for run in bench.runs for note in _notes(run)]
    if bench.search is not None:
        notes += _found(bench.search)
    if notes:
        console.print()
    for note in notes:
        console.print(note, soft_wrap=True)


def _counts(runs: Sequence[RunFigures]) -> Table:
    table = _table(
        "REQUESTS",
        *("sent", "answered", "in time", "late", "refused", "expired", "failed"),
        *("goodput", "share"),
        gap=1,
    )
    for run in runs:
        counts = run.counts
        numbers = (
            *(counts.sent, counts.answered, counts.in_time, counts.late),
            *(counts.refused, counts.expired, counts.failed),
        )
        goodput = f"{run.goodput_per_s:.1f}/s", f"{run.goodput_share:.1%}"
        table.add_row(
            _rate(run),
            *(f"{number:,}" for number in numbers),
            *(goodput if run.is_valid else ("invalid", "invalid")),
        )
    return table


def _latencies(runs: Sequence[RunFigures]) -> Table:
    table = _table("LATENCY, ms", *PERCENTILES, "max", "service p50", "service p99")
    for run in runs:
        if run.is_valid:
            table.add_row(_rate(run), *_figures(run.latency), *_figures(run.service)[::3][:2])
        else:
            table.add_row(_rate(run), *["invalid"] * (len(PERCENTILES) + 3))
    return table


def _stages(runs: Sequence[RunFigures]) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in run.stages_s))
    table = _table("MEAN TIME, ms", *names)
    for run in runs:
        means_s = [run.stages_s.get(name) for name in names]
        table.add_row(_rate(run), *("-" if each is None else _ms(each[0]) for each in means_s))
    return table


def _generator(runs: Sequence[RunFigures]) -> Table:
    table = _table("GENERATOR, ms", "lag p50", "lag p99", "lag max", "processor/request")
    for run in runs:
        lag = _figures(run.lag)
        table.add_row(_rate(run), lag[0], lag[3], lag[-1], _ms(run.cpu_s))
    return table


def _notes(run: RunFigures) -> list[str]:
    notes = [f"{_rate(run)} INVALID: {problem}" for problem in run.problems]
    if run.failures:
        told = ", ".join(f"{count:,} x {reason}" for reason, count in run.failures.items())
        notes.append(f"{_rate(run)} failed: {told}")
    return notes


def _found(search: SearchResult) -> list[str]:
    wanted = ", ".join(each.text for each in search.objectives)
    if search.rate_per_s is None:
        return [f"{wanted}: kept at no rate; {search.why_it_ended}"]
    lines = [
        f"{wanted}: kept at {search.rate_per_s:.4g}/s in {RUNS_THAT_AGREE} runs; "
        f"{search.why_it_ended}"
    ]
    for text, (missed, requests, share) in search.evidence().items():
        lines.append(
            f"  {text}: {missed:,} of {requests:,} requests missed it there; "
            f"with {CONFIDENCE:.0%} confidence at most {share:.2%} do, if they miss independently"
        )
    return lines


def _rate(run: RunFigures) -> str:
    return f"{run.rate_per_s:.4g}/s"


def _figures(found: Distribution | None) -> list[str]:
    if found is None:
        return ["-"] * (len(PERCENTILES) + 1)
    return [*map(_ms, found.percentiles_s.values()), _ms(found.max_s)]


def _ms(seconds: float) -> str:
    """Three digits say all that a latency can."""
    milliseconds = 1000 * seconds
    return f"{milliseconds:,.0f}" if milliseconds >= 99.95 else f"{milliseconds:.3g}"


def _table(first: str, *others: str, gap: int = 2) -> Table:
    """Without lines; the widest has a small `gap` so that it fits into 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table
