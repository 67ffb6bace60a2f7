"""`docs/operating.md`: its commands run, its deployments fit the server, what it quotes is said."""

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.http_api.problems import all_problems
from service.http_api.route_needs import rule_for
from service.http_api.serving import server
from service.settings import PREFIX, Settings
from service.telemetry import Metrics
from tests.conftest import PROJECT
from tests.page_examples import Example, assert_printed, examples_of, run_shell
from tests.serving_process import Lines

PAGE = PROJECT / "docs" / "operating.md"
TEXT = PAGE.read_text()

#: What `rtmdet` is for the commands: this checkout's. A bench says in a fraction of a second
#: whether it works, and nothing about a machine that does other things meanwhile.
COMMAND = f"""#!/usr/bin/env bash
if [ "$1" = bench ]; then
    "{sys.executable}" -m rtmdet "$@" --seconds 0.1 --warm-up 0 --pause 0 || [ $? = 1 ]
else
    exec "{sys.executable}" -m rtmdet "$@"
fi
"""


@dataclass
class Operator:
    """Who tries the commands in a folder.

    A server that was started runs until the next one, or the end of its section; a section that
    starts none and asks one finds one without settings.
    """

    folder: Path
    environment: Mapping[str, str]
    port: int
    running: list[tuple[subprocess.Popen[str], Lines]] = field(default_factory=list)
    section: int = 0

    def try_out(self, example: Example) -> None:
        if (section := _section_of(example)) != self.section:
            self.stop()
            self.section = section
        code = example.code.replace("localhost:8000", f"localhost:{self.port}")
        *before, last = code.rstrip().splitlines()
        if "rtmdet serve" in last:
            started = last.replace("rtmdet serve", "exec rtmdet serve")
            self.start("\n".join((*before, started)))
        else:
            if "localhost" in code and not self.running:
                self.start("exec rtmdet serve")
            assert_printed(example, run_shell(code, self.folder, self.environment))

    def start(self, code: str) -> None:
        self.stop()
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=self.folder,
            env=dict(self.environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        log = Lines(process.stderr)
        self.running.append((process, log))
        log.wait_for("ready: ")

    def stop(self) -> None:
        while self.running:
            process, log = self.running.pop()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.all()


def _section_of(example: Example) -> int:
    """The number of its section, counted from 1."""
    before = TEXT.splitlines()[: example.line]
    return sum(line.startswith("## ") for line in before)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    for name in ("examples", "triton_repo"):
        (tmp_path / name).symlink_to(PROJECT / name)
    command = tmp_path / "bin" / "rtmdet"
    command.parent.mkdir()
    command.write_text(COMMAND)
    command.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    operator = Operator(tmp_path, _environment(tmp_path, port), port)
    try:
        yield operator
    finally:
        for process, _ in operator.running:
            process.kill()
        for process, log in operator.running:
            process.wait(30)
            log.all()


def _environment(folder: Path, port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "COLUMNS": "160",
        "no_proxy": "localhost",
        "RTMDET_PORT": str(port),
        "RTMDET_RUNTIME": "fake",
        "RTMDET_FAKE": "call_ms=20,max_batch=1",
        "RTMDET_DRAIN_DELAY_MS": "0",
    }


@pytest.mark.slow
def test_operating_page__commands_run_in_their_order(operator: Operator) -> None:
    if missing := [each for each in ("curl", "openssl") if shutil.which(each) is None]:
        pytest.skip(f"{', '.join(missing)}: not installed")
    examples = examples_of(PAGE, ("sh",))
    assert len(examples) > 6
    for example in examples:
        try:
            operator.try_out(example)
        except AssertionError as error:
            pytest.fail(f"{PAGE.name}, line {example.line}: {error}")
    operator.stop()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def _documents(kind: str) -> dict[str, Any]:
    """The YAML block with the member `kind` at its top."""
    yaml = pytest.importorskip("yaml")
    return next(each for each in map(yaml.safe_load, _blocks("yaml")) if kind in each)


def _names_of_settings() -> set[str]:
    return {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


#: How long the server takes to end at the most, in seconds, with the default settings.
ENDS_WITHIN_S = (
    Settings.model_fields["drain_delay_ms"].default / 1000
    + Settings.model_fields["request_timeout_ms"].default / 1000
    + 3 * server.GRACE_S
    + server._FIRST_REQUEST_S
)


def test_operating_page__a_pod_has_time_to_end_and_is_asked_what_it_answers() -> None:
    pod = _documents("spec")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {each["name"] for each in container["env"]} <= _names_of_settings()
    assert pod["terminationGracePeriodSeconds"] >= ENDS_WITHIN_S
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert {rule_for(path).need for path in paths.values()} == {"nothing"}
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    ports = {named[probe["httpGet"]["port"]] for probe in probes.values()}
    assert ports == {Settings.model_fields["port"].default}
    assert probes["readiness"]["timeoutSeconds"] > 2


def test_operating_page__a_container_and_a_unit_have_time_to_end() -> None:
    (container,) = _documents("services")["services"].values()
    assert container["environment"].keys() <= _names_of_settings()
    assert float(container["stop_grace_period"].removesuffix("s")) >= ENDS_WITHIN_S
    unit = configparser.ConfigParser()
    unit.read_string(*_blocks("ini"))
    assert unit.getfloat("Service", "TimeoutStopSec") >= ENDS_WITHIN_S
    assert f"{ENDS_WITHIN_S:.0f} s, before it is killed" in TEXT


def test_operating_page__a_container_is_healthy_while_the_server_is_ready(
    operator: Operator,
) -> None:
    (container,) = _documents("services")["services"].values()
    _, _, option, code = container["healthcheck"]["test"]
    asked = [sys.executable, option, code.replace(":8000", f":{operator.port}")]

    def exit_code() -> int:
        return subprocess.run(asked, check=False, stderr=subprocess.DEVNULL).returncode

    assert exit_code() == 1
    operator.start("exec rtmdet serve")
    assert exit_code() == 0


def test_operating_page__alarms_are_of_metrics_that_there_are() -> None:
    described = Metrics().described
    labels = {each.name: {*each.labels} for each in described if each.kind != "histogram"}
    for each in described:
        if each.kind == "histogram":
            labels |= {f"{each.name}_{part}": {*each.labels} for part in ("count", "sum")}
            labels[f"{each.name}_bucket"] = {*each.labels, "le"}
    (group,) = _documents("groups")["groups"]
    named = 0
    for rule in group["rules"]:
        expression = rule["expr"]
        used = re.findall(r"\b(rtmdet_\w+)(?:\{([^}]*)\})?", expression)
        assert used or "process_" in expression or "up{" in expression
        by = {
            name
            for names in re.findall(r"by \(([^)]*)\)", expression)
            for name in names.split(", ")
        }
        for metric, selectors in used:
            assert metric in labels, f"{rule['alert']}: there is no {metric}"
            selected = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', selectors)))
            allowed = labels[metric] | {"instance", "job"}
            assert selected | by <= allowed, f"{rule['alert']}: {metric} has no such label"
            named += 1
    assert named > 8


def test_operating_page__codes_of_problems_are_those_that_there_are() -> None:
    of_the_server_itself = {"service-unavailable"}
    named = set(re.findall(r"\b[45]\d\d `([a-z-]+)`", TEXT))
    assert len(named) > 8
    assert named - all_problems().keys() == of_the_server_itself


#: Messages of the system, of libraries and of clients.
OTHERS_SAY = (
    "Input should be",
    "Address already in use",
    "Too many open files",
    "certificate has expired",
    "SSLV3_ALERT",
)


def test_operating_page__what_it_quotes_the_server_says() -> None:
    """By the parts of each message that do not vary."""
    source = "\n".join(path.read_text() for path in (PROJECT / "service").rglob("*.py"))
    source += "\n".join(path.read_text() for path in (PROJECT / "model").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)
    (rows,) = re.findall(r"\| what \| what is seen .*?\n\n", TEXT, re.DOTALL)
    quoted = [each for each in re.findall(r"`([^`]+)`", rows) if " " in each]
    names = r"\bcertificate\b|\bNAME\b|\bRTMDET_\w+|[\w.-]+\.(?:pem|key|jsonl)"
    varying = rf"…|; |{names}|'[^']*'|\b\d[\w.:/]*"
    fragments = [
        part.strip(" :;,.")
        for message in quoted
        if not any(said in message for said in OTHERS_SAY)
        for part in re.split(varying, message)
    ]
    telling = [part for part in fragments if len(part) > 8 and not part.startswith("rtmdet ")]
    assert len(telling) > 20
    assert [part for part in telling if part not in joined] == []
