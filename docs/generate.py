"""Tables of the documents that the code itself gives: settings, metrics, problems, routes.

    python -m docs.generate

Rewrites what stands between `<!-- NAME -->` and `<!-- /NAME -->` in the documents, and prints the
names of those that changed; a test holds that nothing would change.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi.routing import APIRoute
from pydantic_core import PydanticUndefined

from service.http_api import model_routes, operation_routes, routes
from service.http_api.problems import all_problems, status_of
from service.http_api.route_needs import RouteRule, rule_for
from service.settings import PREFIX, Settings
from service.telemetry import Metrics

DOCUMENTS = Path(__file__).resolve().parent


def settings_table() -> str:
    """Every setting by its variable, with its default."""
    lines = ["| variable | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        assert field.default is not PydanticUndefined
        assert field.description, f"{name} has no description"
        shown = _shown(name, field.default)
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {_cell(field.description)} |")
    return "\n".join(lines)


def _shown(name: str, default: object) -> str:
    if default is None or default in ((), ""):
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int) and name.endswith("_bytes"):
        return f"`{default}` ({_binary(default)})"
    return f"`{default}`"


def _binary(num_bytes: int) -> str:
    """A whole number of the largest unit that gives one.

    >>> _binary(32 * 1024), _binary(512 * 1024**2)
    ('32 KiB', '512 MiB')
    """
    units = ("bytes", "KiB", "MiB", "GiB")
    power = 0
    while num_bytes % 1024 == 0 and power + 1 < len(units):
        num_bytes //= 1024
        power += 1
    return f"{num_bytes} {units[power]}"


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
        meaning = " ".join((kind.__doc__ or "").split())
        lines.append(f"| `{code}` | {status_of(kind)} | {_cell(meaning)} |")
    return "\n".join(lines)


def routes_table() -> str:
    """Every route, what it asks of its caller, and what it is for."""
    lines = [
        "| route | scope of the key | counts for the rate limit | |",
        "| --- | --- | --- | --- |",
    ]
    for each in all_routes():
        rule = rule_for(each.path)
        counts = "yes" if rule.is_rate_limited else ""
        method = "/".join(sorted(each.methods))
        meaning = (inspect.getdoc(each.endpoint) or "").partition("\n\n")[0]
        meaning = _cell(" ".join(meaning.split()))
        lines.append(f"| `{method} {each.path}` | {_need(rule)} | {counts} | {meaning} |")
    lines.append(
        f"| `GET /openapi.json` | {_need(rule_for('/openapi.json'))} | | The OpenAPI document. |"
    )
    return "\n".join(lines)


def all_routes() -> list[APIRoute]:
    """Those that the application has of its own; each of them is there below `/v1` too."""
    found = [
        route
        for part in (routes, model_routes, operation_routes)
        for route in part.router.routes
        if isinstance(route, APIRoute)
    ]
    # `HEAD` of the probes stands beside their `GET`.
    return [route for route in found if route.methods != {"HEAD"}]


def _need(rule: RouteRule) -> str:
    named = {"nothing": "no key", "any-key": "any"}
    return named.get(rule.need, f"`{rule.need}`")


TABLES: Mapping[str, Callable[[], str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "problems": problems_table,
    "routes": routes_table,
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
