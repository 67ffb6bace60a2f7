"""Shows how far a download is, on stderr: a bar on a terminal, a line per tenth elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from model.checkpoints.download import Progress as Report


@contextmanager
def shown(name: str, console: Console | None = None) -> Iterator[Report]:
    """What to tell a download's progress to, while the file `name` is fetched."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name, console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda received, total: bar.update(task, completed=received, total=total)


class _Lines:
    """A line for each tenth of the file, so that a log stays short."""

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._console = console
        self._tenths_shown = -1

    def __call__(self, received: int, total: int | None) -> None:
        if not total:
            return
        tenths = received * 10 // total
        if tenths != self._tenths_shown:
            self._tenths_shown = tenths
            text = f"{self._name}: {tenths * 10} % of {total / 1e6:.1f} MB"
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)
