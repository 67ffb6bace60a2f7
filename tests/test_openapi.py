"""Requests made from the OpenAPI document, sound and broken ones, against a real server.

    OPENAPI_EXAMPLES=2000 pytest tests/test_openapi.py

is the long run, of ten minutes; without the variable each operation gets a few dozen.
"""

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    status_code_conformance,
)

from service.access.gate import Gate
from service.access.keys import SCOPES
from service.access.watched_keys import WatchedKeys
from service.http_api.app import create_app
from service.settings import Settings
from service.wiring import build_detector
from tests.api_keys import add_key
from tests.pictures import one_of_each_format
from tests.repositories import write_model
from tests.servers import running_server

NUM_EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "40"))

PICTURES = list(one_of_each_format().values())
schemathesis.openapi.media_type("image/*", st.sampled_from(PICTURES) | st.binary(max_size=64))
schemathesis.openapi.format(
    "byte", st.sampled_from([base64.b64encode(picture).decode() for picture in PICTURES])
)

ACCEPTED = st.sampled_from(
    [
        *[None] * 4,
        "application/json",
        "image/jpeg",
        "image/png",
        "image/*;q=0.5, */*;q=0.1",
        "text/html",
        "*/*;q=0",
        "image/png;q=nan",
        ",;=",
    ]
)

OPERATIONS = [
    "POST /detect",
    "POST /detect:batch",
    "GET /models",
    "POST /models/{name}/load",
    "POST /models/{name}/unload",
    "GET /limits",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
    "GET /problems/{code}",
]


#: They have no parameter, or one that any text suits: nothing could be broken.
NEVER_WRONG = ("GET /livez", "GET /readyz", "GET /problems/{code}")


@dataclass(frozen=True)
class Served:
    """A running server, its document, and a key for everything where it asks for keys."""

    client: httpx.Client
    operations: Mapping[str, Any]
    key: str | None = None

    def __repr__(self) -> str:
        return "served"


def _operations(client: httpx.Client) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    found = (each.ok() for each in schema.get_all_operations())
    return {operation.label: operation for operation in found}


def _settings(folder: Path) -> Settings:
    for name in ("boxes", "other"):
        write_model(folder, name)
    return Settings(
        model_repository=folder,
        runtime="fake",
        max_image_bytes=10_000,
        max_image_pixels=100_000,
        max_images_per_request=4,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detector = build_detector(_settings(tmp_path_factory.mktemp("open")))
    with running_server(create_app(detector, max_buffered_bytes=10**7)) as client:
        yield Served(client, _operations(client))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    secret = add_key(folder / "keys.jsonl", "all", SCOPES)
    detector = build_detector(_settings(folder / "models"))
    gate = Gate(WatchedKeys(folder / "keys.jsonl"))
    with running_server(create_app(detector, max_buffered_bytes=10**7, gate=gate)) as client:
        yield Served(client, _operations(client), secret)


def _strategy(operation: Any, mode: schemathesis.GenerationMode) -> st.SearchStrategy[Any]:
    chosen = schemathesis.GenerationMode.POSITIVE if operation.label in NEVER_WRONG else mode
    return operation.as_strategy(generation_mode=chosen)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation__answers_as_documented(
    served: Served, name: str, mode: schemathesis.GenerationMode
) -> None:
    # What is sound by the document may still be no picture, and keys are not asked for here. A
    # request may allow itself a millisecond, and is told that this is too little.
    excluded = [positive_data_acceptance, ignored_auth, not_a_server_error]

    def check(case: schemathesis.Case, accept: str | None) -> None:
        if accept is not None:
            case.headers["Accept"] = accept
        response = case.call()
        assert response.status_code < 500 or response.status_code in (503, 504)
        # A refusal like the others, which the checker does not count among them.
        too_large = [negative_data_rejection] if response.status_code == 413 else []
        case.validate_response(response, excluded_checks=excluded + too_large)
        if mode is schemathesis.GenerationMode.POSITIVE and response.status_code == 422:
            # Names of classes, and an option under two names, cannot be told in a schema.
            for error in response.json()["errors"]:
                assert error["pointer"] == "/classes" or "given twice" in error["detail"]

    _run(given(_strategy(served.operations[name], mode), ACCEPTED)(check))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation__asks_for_keys_as_documented(guarded: Served, name: str) -> None:
    operation = guarded.operations[name]
    is_open = operation.definition.raw["security"] == []

    def check(case: schemathesis.Case) -> None:
        for header in ("Authorization", "X-API-Key"):
            case.headers.pop(header, None)
        without = case.call()
        assert (without.status_code == 401) == (not is_open)
        case.validate_response(without, checks=[status_code_conformance])
        assert case.call(headers={"X-API-Key": guarded.key}).status_code not in (401, 403)

    positive = schemathesis.GenerationMode.POSITIVE
    _run(given(_strategy(operation, positive))(check), NUM_EXAMPLES // 5)


def test_document__has_these_operations(served: Served) -> None:
    assert set(served.operations) == set(OPERATIONS)


def _run(test: Any, num_examples: int = NUM_EXAMPLES) -> None:
    settings(
        max_examples=num_examples,
        # The short run is the same every time; the long one looks elsewhere.
        derandomize="OPENAPI_EXAMPLES" not in os.environ,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        verbosity=Verbosity.normal,
        print_blob=True,
    )(test)()
