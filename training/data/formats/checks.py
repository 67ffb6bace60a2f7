"""What is wrong with a data set: collected while it is read, told with file and record.

Problems end the reading with `BrokenData`, once all are known; remarks are counted and kept.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

#: Problems that are listed; of the others only the number is told.
MAX_LISTED = 10


class BrokenData(ValueError):
    """A data set that cannot be trained on.

    The message is one line with the first problem. `problems` lists the first ten, each with its
    file and record; `num_problems` counts all.
    """

    def __init__(self, source: Path, problems: Iterable[str], num_problems: int) -> None:
        self.source = source
        self.problems = tuple(problems)
        self.num_problems = num_problems
        super().__init__(source, self.problems, num_problems)

    def __str__(self) -> str:
        more = self.num_problems - 1
        rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        return f"broken data in {self.source}: {self._told(self.problems[0])}{rest}"

    def report(self) -> str:
        """One line for one problem; else every one that is listed, and how many more there are."""
        if self.num_problems == 1:
            return str(self)
        lines = [f"broken data in {self.source}: {self.num_problems} problems"]
        lines += [f"  {self._told(problem)}" for problem in self.problems]
        unlisted = self.num_problems - len(self.problems)
        return "\n".join(lines + ([f"  and {unlisted} more"] if unlisted else []))

    def _told(self, problem: str) -> str:
        """`problem`, which need not name the file again where that is the source itself."""
        return problem.removeprefix(f"{self.source}: ")


class Findings:
    """What a reader notices in the set at `source`."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.remarks: Counter[str] = Counter()
        self._problems: list[str] = []
        self.num_problems = 0

    def problem(self, file: Path, record: str, what: str) -> None:
        """Note what must be mended: `record` names the place inside the file."""
        self.num_problems += 1
        if self.num_problems <= MAX_LISTED:
            self._problems.append(f"{file}: {record}: {what}" if record else f"{file}: {what}")

    def unreadable_image(self, path: Path, file: Path, record: str, what: str) -> None:
        """Note an image that cannot be read, and the place that lists it: a problem, too."""
        self.problem(file, record, what if file == path else f"{path}: {what}")

    def remark(self, what: str) -> None:
        """Count something that a user may want to know and that stops nothing."""
        self.remarks[what] += 1

    def noticed(self) -> str:
        """The remarks in one line; empty where there is none."""
        return "; ".join(f"{count} x {remark}" for remark, count in self.remarks.items())

    def require_none(self) -> None:
        """Raise BrokenData if there was any problem."""
        if self.num_problems:
            raise BrokenData(self.source, self._problems, self.num_problems)


def broken(file: Path, what: str) -> BrokenData:
    """The error for a file after which nothing more can be said."""
    return BrokenData(file, (what,), 1)
