"""Tables of the documents that the code itself gives: settings, metrics, problems.

    python -m docs.generate

Rewrites what stands between `<!-- NAME -->` and `<!-- /NAME -->` in the documents; a test holds
that nothing would change.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic_core import PydanticUndefined

from service.http_api.problems import all_problems, status_of
from service.settings import PREFIX, Settings
from service.telemetry import Metrics

DOCUMENTS = Path(__file__).resolve().parent


def settings_table() -> str:
    """Every setting by its variable, with its default."""
    lines = ["| variable | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        assert field.default is not PydanticUndefined
        assert field.description, f"{name} has no description"
        shown = _shown(field.default)
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {_cell(field.description)} |")
    return "\n".join(lines)


def _shown(default: object) -> str:
    if default is None or default in ((), ""):
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`"


def metrics_table() -> str:
    """Every metric of ours."""
    lines = ["| metric | kind | labels | |", "| --- | --- | --- | --- |"]
    for each in Metrics().described:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.kind} | {labels} | {_cell(each.text)} |")
    return "\n".join(lines)


def problems_table() -> str:
    """Every code that an answer may carry."""
    lines = ["| code | status | |", "| --- | ---: | --- |"]
    for code, kind in sorted(all_problems().items(), key=lambda item: (status_of(item[1]), item)):
        if kind.__subclasses__():
            # Only what is below it is ever answered.
            continue
        meaning = " ".join((kind.__doc__ or "").split())
        lines.append(f"| `{code}` | {status_of(kind)} | {_cell(meaning)} |")
    return "\n".join(lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "problems": problems_table,
}


def filled(text: str) -> str:
    """A document with its tables as the code gives them now."""
    for name, table in TABLES.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        content = table()
        text = block.sub(lambda found, c=content: f"{found[1]}{c}\n{found[2]}", text)
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Rewrite the documents."""
    for path in sorted(DOCUMENTS.glob("*.md")):
        before = path.read_text()
        after = filled(before)
        if after != before:
            path.write_text(after)
            print(path.name)  # noqa: T201 - a command line


if __name__ == "__main__":
    main()
