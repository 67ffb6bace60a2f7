"""Which variables are ours, and what becomes of one that is not."""

import re

import pytest

from service.environment import OTHERS, unknown_variables
from service.settings import Settings, SettingsError, load_settings
from tests.conftest import PROJECT

#: Kinds of files that name variables; a Dockerfile has no suffix.
TEXTS = ("", ".py", ".md", ".sh", ".toml", ".yml", ".yaml", ".env", ".html")

NAMES = ("port", "host", "max_queue")


def unknown(*variables: str) -> dict[str, str | None]:
    environment = dict.fromkeys(variables, "1")
    return {each.name: each.meant for each in unknown_variables(environment, NAMES)}


def test_unknown_variables__settings_and_those_of_other_parts_are_known() -> None:
    assert unknown("RTMDET_PORT", "rtmdet_host", *OTHERS, "PATH", "RTMDETECTOR") == {}


def test_unknown_variables__misspelt_one_and_what_was_meant() -> None:
    assert unknown("RTMDET_PROT", "RTMDET_MAXQUEUE", "RTMDET_COLOUR") == {
        "RTMDET_PROT": "RTMDET_PORT",
        "RTMDET_MAXQUEUE": "RTMDET_MAX_QUEUE",
        "RTMDET_COLOUR": None,
    }


def test_unknown_variables__what_kubernetes_sets_for_its_services_is_not_ours() -> None:
    """A Service named `rtmdet`, and one named `rtmdet-triton`."""
    assert (
        unknown(
            "RTMDET_SERVICE_HOST",
            "RTMDET_SERVICE_PORT",
            "RTMDET_SERVICE_PORT_HTTP",
            "RTMDET_PORT",
            "RTMDET_PORT_8000_TCP",
            "RTMDET_PORT_8000_TCP_ADDR",
            "RTMDET_TRITON_SERVICE_HOST",
            "RTMDET_TRITON_SERVICE_PORT",
            "RTMDET_TRITON_PORT",
            "RTMDET_TRITON_PORT_8001_TCP_PROTO",
        )
        == {}
    )
    assert unknown("RTMDET_PORT_8000_TCP") == {"RTMDET_PORT_8000_TCP": None}


def test_load_settings__unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTMDET_MAX_IMAGE_BYTE", "5")
    with pytest.raises(SettingsError, match="did you mean RTMDET_MAX_IMAGE_BYTES"):
        load_settings()


def test_settings__port_that_kubernetes_set_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTMDET_PORT", "tcp://10.96.0.17:8000")
    assert load_settings().port == 8000
    assert load_settings(port=9000).port == 9000


def test_others__are_all_that_the_product_reads() -> None:
    """A new variable that is no setting must be listed, or a server would refuse to start."""
    folders = ("service", "model", "training", "tests", "benchmarks", "examples", "docker", "docs")
    files = [path for name in folders for path in (PROJECT / name).rglob("*") if path.is_file()]
    files += [path for path in PROJECT.iterdir() if path.is_file()]
    made_up = {"test_environment.py", "test_doctor.py"}
    found = {
        name: str(path)
        for path in files
        if path.suffix in TEXTS and path.name not in made_up
        for name in re.findall(r"\bRTMDET_[A-Z0-9_]*[A-Z0-9]", path.read_text())
    }
    assert {"RTMDET_MIRROR", "RTMDET_PORT"} <= found.keys()
    # A misspelling, to show what a server says of it.
    found.pop("RTMDET_MAX_QUEU", None)
    settings = {f"RTMDET_{name.upper()}" for name in Settings.model_fields}
    assert {name: found[name] for name in found.keys() - settings - OTHERS.keys()} == {}


def test_load_settings__an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As deployments write those that they leave out: a path would be the current folder."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"RTMDET_{name.upper()}", "")
    assert load_settings() == Settings()
