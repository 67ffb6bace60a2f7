"""Whether a page that says something else than what is printed is found out."""

import json
from pathlib import Path

import pytest

from tests.page_examples import (
    assert_like,
    assert_like_text,
    examples_of,
    parse_written,
    run_shell,
)

PRINTED = {
    "id": "req_01",
    "size": [320, 240],
    "found": [{"label": "star", "score": 0.9412, "box": [10.5, 200.25]}, {"label": "cross"}],
    "note": None,
    "yes": True,
}


@pytest.mark.parametrize(
    "written",
    [
        '{"id": "req_…", "size": [320, 240], "note": null, "yes": true, "found": …}',
        '{"found": [{"label": "star", …}, …], …}',
        '{"found": [{"score": 0.92, "box": [9.5, 201.0], "label": "…"}, {"label": "cross"}], …}',
        '{"size": […], …}',
        "{…}",
    ],
)
def test_assert_like__accepts_what_may_vary(written: str) -> None:
    assert_like(parse_written(written), PRINTED, "")


@pytest.mark.parametrize(
    "written",
    [
        '{"id": "req_…"}',
        '{"name": "…", …}',
        '{"id": "order_…", …}',
        '{"size": [320, 241], …}',
        '{"size": [320], …}',
        '{"size": [320.0, 240], …}',
        '{"note": false, …}',
        '{"yes": 1, …}',
        '{"found": [{"label": "star", "score": 0.8, …}, …], …}',
        '{"found": [{"label": "star"}, …], …}',
        '{"found": [{"box": [10.5, 203.0], …}, …], …}',
    ],
)
def test_assert_like__refuses_what_is_something_else(written: str) -> None:
    with pytest.raises(AssertionError):
        assert_like(parse_written(written), PRINTED, "")


def test_assert_like_text__accepts_near_numbers_and_what_varies() -> None:
    assert_like_text(
        "star 0.94 at 12.0\n…\nend in … ms\n", "star 0.91 at 12.9\na\nb\nend in 3 ms\n"
    )


@pytest.mark.parametrize("printed", ["star 0.80", "star", "star 0.94 too", "cross 0.94", ""])
def test_assert_like_text__refuses_what_is_something_else(printed: str) -> None:
    with pytest.raises(AssertionError):
        assert_like_text("star 0.94\n", printed)


def test_examples_of__takes_the_output_that_stands_right_behind(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    blocks = (
        "```sh\necho 1\n```\n```text\n1\n```",
        "```python\npass\n```",
        "Says:",
        "```json\n2\n```",
    )
    page.write_text("\n\n".join(("# Page", *blocks)) + "\n")
    first, second = examples_of(page)
    assert (first.code, first.output, first.line) == ("echo 1\n", "1\n", 4)
    assert (second.code, second.output) == ("pass\n", None)


def test_run_shell__a_command_that_fails_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        run_shell("false\necho went on", tmp_path, {"PATH": "/usr/bin:/bin"})
    assert json.loads(run_shell("echo 1", tmp_path, {"PATH": "/usr/bin:/bin"})) == 1
