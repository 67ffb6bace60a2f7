"""What a check found: whether it is well, and what to do where it is not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warning", "problem"]

#: From the best to the worst.
LEVELS: tuple[Level, ...] = ("ok", "warning", "problem")


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    `area` groups lines, `name` says what was looked at, `detail` how it is, `advice` what to do.
    `data` has the same in numbers, for programs.
    """

    area: str
    name: str
    level: Level
    detail: str
    advice: str = ""
    data: Mapping[str, object] = field(default_factory=dict[str, object])


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the worst of them; `ok` where there are none."""
    levels = {each.level for each in findings}
    found: list[Level] = [level for level in LEVELS if level in levels]
    return found[-1] if found else "ok"
