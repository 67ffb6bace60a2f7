"""Examples on the pages of `docs/`: found, run, and their output compared with what the page shows.

An example is a block tagged `sh` or `python`; a block tagged `json` or `text` right behind it is
what it prints. In those `…` stands for what varies, and numbers need only be near: another
processor computes in another precision.
"""

import contextlib
import io
import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w[\w-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

#: Far longer than any example takes.
_PATIENCE_S = 60


@dataclass(frozen=True)
class Example:
    """What a reader would run, and what the page says that it prints, if it says so."""

    line: int
    language: str
    code: str
    output: str | None = None
    output_language: str = ""


def examples_of(page: Path, languages: Sequence[str] = ("sh", "python")) -> list[Example]:
    """The examples of a page, in order."""
    text = page.read_text()
    found: list[Example] = []
    end = -1
    for block in _BLOCK.finditer(text):
        language, code = block[1], block[2]
        if language in languages:
            found.append(Example(text.count("\n", 0, block.start()) + 2, language, code))
        elif language in ("json", "text") and found and not text[end : block.start()].strip():
            last = found[-1]
            found[-1] = Example(last.line, last.language, last.code, code, language)
        end = block.end()
    return found


def run_shell(code: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What a block of commands prints. A command that fails is a failure."""
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_S,
    )
    assert ran.returncode == 0, f"exit code {ran.returncode}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def run_python(code: str, page: Path, line: int, names: dict[str, object]) -> str:
    """What a block of Python prints; `names` are those of the blocks before it."""
    printed = io.StringIO()
    # Tracebacks show the page's line.
    compiled = compile("\n" * (line - 1) + code, str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(compiled, names)
    return printed.getvalue()


def assert_printed(example: Example, printed: str) -> None:
    """The output is what the page says."""
    if example.output is None:
        return
    if example.output_language == "text":
        assert_like_text(example.output, printed)
    else:
        assert_like(parse_written(example.output), json.loads(printed), "")


def parse_written(text: str) -> object:
    """JSON with `…` in the place of values, of further elements, and of further members."""
    before: list[str] = []

    def quoted(token: re.Match[str]) -> str:
        if token[0] == "…":
            is_member = before[-1] in "{," and _is_in_object(before)
            return '"…": "…"' if is_member else '"…"'
        before.append(token[0][0])
        return token[0]

    return json.loads(re.sub(r'"(?:[^"\\]|\\.)*"|…|[\[\]{}:,]', quoted, text))


def _is_in_object(marks: Sequence[str]) -> bool:
    depth = 0
    for mark in reversed(marks):
        if mark in "]}":
            depth += 1
        elif mark in "[{":
            if depth == 0:
                return mark == "{"
            depth -= 1
    return False


def assert_like(written: object, printed: object, where: str) -> None:
    """The same members and types, and the same values but for `…` and for numbers that are near."""
    if written == "…":
        return
    if isinstance(written, float) or isinstance(printed, float):
        assert type(written) is type(printed), where
        assert _is_near(written, printed), f"{where}: {printed} is not near {written}"
        return
    assert type(written) is type(printed), f"{where}: {printed!r} is not like {written!r}"
    if isinstance(written, dict) and isinstance(printed, dict):
        named = written.keys() - {"…"}
        missing, others = named - printed.keys(), printed.keys() - named
        assert not missing, f"{where}: no {missing}"
        assert "…" in written or not others, f"{where}: {others} too"
        for name in named:
            assert_like(written[name], printed[name], f"{where}/{name}")
    elif isinstance(written, list) and isinstance(printed, list):
        is_open = written[-1:] == ["…"]
        elements = written[:-1] if is_open else written
        assert len(printed) >= len(elements), f"{where}: {len(printed)} elements"
        assert is_open or len(printed) == len(elements), f"{where}: {len(printed)} elements"
        for index, (one, other) in enumerate(zip(elements, printed, strict=False)):
            assert_like(one, other, f"{where}/{index}")
    elif isinstance(written, str) and isinstance(printed, str):
        assert _pattern(written).fullmatch(printed), f"{where}: {printed!r} is not {written!r}"
    else:
        assert written == printed, f"{where}: {printed!r} is not {written!r}"


def assert_like_text(written: str, printed: str) -> None:
    """Line by line; a line that is `…` alone stands for any number of lines."""
    expected = re.split(r"^…\n", written, flags=re.MULTILINE)
    pattern = r"(?:.*\n)*".join(_lines(part) for part in expected)
    found = re.fullmatch(pattern, printed.strip("\n") + "\n")
    assert found, f"printed:\n{printed}\nthe page says:\n{written}"
    numbers = re.findall(_DECIMAL, written)
    for number, text in zip(numbers, found.groups(), strict=True):
        assert _is_near(float(number), float(text)), f"{text} is not near {number}:\n{printed}"


_DECIMAL = r"-?\d+\.\d+(?![\d.])"


def _lines(text: str) -> str:
    """A pattern with a group for every decimal number; blanks at the end of a line do not count."""
    lines: list[str] = []
    for line in text.splitlines():
        pieces = re.split(f"({_DECIMAL}|…)", line.rstrip())
        shown = (
            "(-?\\d+\\.\\d+)" if i % 2 and p != "…" else _escaped(p) for i, p in enumerate(pieces)
        )
        lines.append("".join(shown) + r" *\r?\n")
    return "".join(lines)


def _escaped(text: str) -> str:
    return ".*?" if text == "…" else re.escape(text)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("…"))), re.DOTALL)


def _is_near(one: object, other: object) -> bool:
    """Scores and angles to 0.05, pixels to 2."""
    assert isinstance(one, float)
    assert isinstance(other, float)
    return math.isclose(one, other, rel_tol=0, abs_tol=0.05 if abs(one) <= 2 else 2)
