"""A report as text to be pasted, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from service.diagnosis.findings import LEVELS, Finding, Level, worst
from service.diagnosis.settings_in_force import SettingInForce

FORMAT = "rtmdet-doctor-1"


@dataclass(frozen=True)
class Report:
    """Everything that was looked at."""

    findings: Sequence[Finding]
    settings: Sequence[SettingInForce]

    @property
    def verdict(self) -> Level:
        """The level of the worst finding."""
        return worst(self.findings)


def as_json(report: Report) -> str:
    """One object; `format` changes when a member changes its meaning."""
    body = {
        "format": FORMAT,
        "verdict": report.verdict,
        "findings": [asdict(each) for each in report.findings],
        "settings": [asdict(each) for each in report.settings],
    }
    return _without_home(json.dumps(body, indent=2))


def as_text(report: Report) -> str:
    """A line for each finding, by area; below it what to do."""
    lines: list[str] = []
    for area, findings in groupby(report.findings, key=lambda each: each.area):
        lines += ["", area]
        for each in findings:
            lines.append(f"  {each.level:<8}{each.name}: {each.detail}")
            if each.advice:
                lines.append(f"          -> {each.advice}")
    lines += ["", "settings in force"]
    lines += [f"  {each.variable}={each.value}  ({each.origin})" for each in report.settings]
    return _without_home("\n".join([*lines, "", _summary(report)]).lstrip("\n"))


def _summary(report: Report) -> str:
    counts = {level: sum(each.level == level for each in report.findings) for level in LEVELS}
    return (
        f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} checks are ok"
    )


def _without_home(text: str) -> str:
    """A report is shown to others, and the path of a home has its owner's name."""
    home = str(Path.home())
    return text if home == "/" else text.replace(home, "~")
