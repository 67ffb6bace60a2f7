"""The documents say what is there."""

import re
from pathlib import Path

import pytest
import torch

from docs.generate import TABLES, filled
from model.config import VARIANTS
from model.rtmdet import build_rtmdet
from service.http_api.options import OptionFields
from service.settings import Settings
from tests.conftest import PROJECT
from training.config import TrainConfig
from training.overrides import apply_overrides
from training.recipes import recipe

DOCUMENTS = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
]

#: A user's files: data sets, runs, models.
USERS_FILES = (
    "annotations/",
    "checkpoints/",
    "evaluations/",
    "images/",
    "index/",
    "labels/",
    "problems/",
    "ranks/",
    "runs/",
    "samples/",
    "tensorboard/",
    "train/",
    "triton_repo/<name>/",
)

#: Media types and rates.
NO_PATHS = ("application/", "image/", "multipart/", "50/")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents__paths_that_they_name_exist(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text))
    linked = {
        link.partition("#")[0]
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if not link.startswith("http")
    }
    # Recorded arrays and photographs beside the project are not part of it.
    own = {
        path
        for path in named | linked
        if not path.startswith(("../", "tests/test_<", *USERS_FILES, *NO_PATHS))
    }
    folders = (PROJECT, document.parent)
    missing = [path for path in own if not any((folder / path).exists() for folder in folders)]
    assert missing == []


def test_documents__their_tables_are_those_that_the_code_gives() -> None:
    """`make docs` writes them."""
    pages = sorted((PROJECT / "docs").glob("*.md"))
    assert [page.name for page in pages if filled(page.read_text()) != page.read_text()] == []
    shown = {name for page in pages for name in TABLES if f"<!-- /{name} -->" in page.read_text()}
    assert shown == set(TABLES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents__sections_that_they_link_to_exist(document: Path) -> None:
    """As GitHub names them: in lower case, dashes for blanks, no punctuation."""
    text = document.read_text()
    links = re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", text)
    missing = [
        f"{path}#{section}"
        for path, section in links
        if section not in _sections((document.parent / path) if path else document)
    ]
    assert missing == []


def _sections(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_documents__are_short_enough_to_be_read() -> None:
    def lines(path: Path) -> int:
        return len(path.read_text().splitlines())

    assert lines(PROJECT / "docs" / "architecture.md") <= 150
    assert lines(PROJECT / "CONTRIBUTING.md") <= 80
    decisions = sorted((PROJECT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in decisions] == [
        f"{number:04}" for number in range(1, len(decisions) + 1)
    ]
    assert all(lines(path) <= 40 for path in decisions)


def test_readme__names_every_option() -> None:
    text = (PROJECT / "README.md").read_text()
    assert [name for name in OptionFields.model_fields if f"`{name}`" not in text] == []


def test_readme__counts_the_parameters_of_every_variant() -> None:
    text = (PROJECT / "README.md").read_text()
    for name, config in VARIANTS.items():
        with torch.device("meta"):
            network = build_rtmdet(config)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert re.search(rf"`{name}` \| {count:,} \|", text), f"{name} has {count:,} parameters"


def test_training__settings_that_it_names_exist() -> None:
    """Each is given back its own value."""
    text = (PROJECT / "docs" / "training.md").read_text()
    config = recipe("rtmdet-ins-tiny")
    groups = "model|data|stages|optimizer|schedule|ema|loss|runtime"
    named = set(re.findall(rf"`((?:{groups})\.[a-z_.]+)`", text))
    assert len(named) > 15
    named.discard("data.yaml")  # a file
    unknown = [name for name in named if not _is_setting(config, name)]
    assert unknown == []


def _is_setting(config: TrainConfig, name: str) -> bool:
    """An unknown one is refused for its name, whatever value it is given."""
    try:
        apply_overrides(config, [f"{name}=none"])
    except ValueError as error:
        return "unknown setting" not in str(error)
    return True


def test_settings__are_these() -> None:
    """People configure deployments with them: none may change by accident."""
    assert set(Settings.model_fields) == {
        "host",
        "port",
        "tls_certificate",
        "tls_key",
        "tls_client_ca",
        "trusted_proxies",
        "max_connections",
        "max_connections_per_client",
        "max_header_bytes",
        "max_headers",
        "header_timeout_ms",
        "body_timeout_ms",
        "write_timeout_ms",
        "idle_timeout_ms",
        "drain_delay_ms",
        "model_repository",
        "models",
        "default_model",
        "runtime",
        "precision",
        "inference_threads",
        "inference_nice",
        "max_batch_size",
        "fake",
        "worker_threads",
        "hang_timeout_ms",
        "max_queue",
        "request_timeout_ms",
        "max_image_bytes",
        "max_image_pixels",
        "max_buffered_bytes",
        "max_working_bytes",
        "max_images_per_request",
        "api_keys_file",
        "allow_anonymous",
        "rate_limit",
        "log_level",
        "log_format",
        "access_log",
        "tracing",
    }
