"""`docs/api.md`: every example of the page is run against a real server with the shipped models."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.generate import all_routes
from service.http_api.options import ALIASES, OptionFields
from tests.conftest import PROJECT
from tests.page_examples import Example, assert_printed, examples_of, run_python, run_shell
from tests.serving_process import ready_server
from tests.shipped_models import MODELS, REPOSITORY

pytest.importorskip("openvino")

PAGE = PROJECT / "docs" / "api.md"
EXAMPLES = examples_of(PAGE)


@dataclass(frozen=True)
class Reader:
    """Who tries the examples: a folder to write to, a server, and what Python knows by now."""

    folder: Path
    port: int
    names: dict[str, object]

    def try_out(self, example: Example) -> str:
        code = example.code.replace("localhost:8000", f"localhost:{self.port}")
        if example.language == "python":
            return run_python(code, PAGE, example.line, self.names)
        environment = {**os.environ, "no_proxy": "localhost", "RTMDET_API_KEY": "rtmdet_any"}
        return run_shell(code, self.folder, environment)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    for name in ("examples", "README.md"):
        (folder / name).symlink_to(PROJECT / name)
    settings = {
        "runtime": "openvino",
        "models": ",".join(MODELS),
        "inference_threads": 1,
        "rate_limit": "1000/minute",
    }
    with pytest.MonkeyPatch.context() as patch, ready_server(REPOSITORY, **settings) as server:
        patch.chdir(folder)
        patch.setenv("no_proxy", "localhost")
        yield Reader(folder, server.port, {"__name__": "page"})


# Of pycocotools, with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_api_page__examples_print_what_the_page_says(reader: Reader) -> None:
    """One test for all: they go on from each other."""
    faults: list[str] = []
    for example in EXAMPLES:
        if example.language == "sh" and shutil.which("curl") is None:
            continue
        try:
            assert_printed(example, reader.try_out(example))
        except Exception as error:
            faults.append(f"{PAGE.name}, line {example.line}: {error!r}")
    assert len(EXAMPLES) > 12
    assert "\n".join(faults) == ""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: only the examples in Python were tried")


def test_api_page__names_every_route_and_option() -> None:
    text = PAGE.read_text()
    routes = [f"{method} {each.path}" for each in all_routes() for method in sorted(each.methods)]
    options = [*OptionFields.model_fields, *ALIASES]
    assert [each for each in (*routes, *options) if f"`{each}`" not in text] == []
