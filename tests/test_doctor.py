"""`rtmdet doctor`: what it finds, what it says, and how it ends."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import trustme

from model.manifest import GRAPH_FILE
from model.repository import ModelRepository
from service.cgroups import CgroupLimits, read_cgroup_limits
from service.commands.doctor import check_secret_files
from service.diagnosis.accelerators import check_gpus, list_gpus
from service.diagnosis.certificates import check_certificate
from service.diagnosis.findings import Finding
from service.diagnosis.machine_limits import (
    check_disk,
    check_open_files,
    check_secret_file,
    check_shared_memory,
)
from service.diagnosis.models import check_chosen, check_model, check_models
from service.diagnosis.ports import check_port
from service.diagnosis.processor import check_cores, check_memory, parse_cpuinfo, tell_precision
from service.diagnosis.report import Report, as_json, as_text
from service.diagnosis.settings_in_force import (
    SettingInForce,
    list_settings,
    read_settings,
    shown_value,
)
from service.diagnosis.versions import check_python, check_versions
from service.runtime.base import Outputs
from service.runtime.fake import FakeRuntime
from service.settings import Settings
from tests.conftest import PROJECT
from tests.fake_serving import fake_serving
from tests.repositories import write_model

GIB = 1024**3


def level_of(findings: list[Finding], name: str) -> str:
    (level,) = [each.level for each in findings if each.name == name]
    return level


# -- models


def diagnosed(repository: Path, runtime: FakeRuntime) -> dict[str, Finding]:
    findings = check_model(ModelRepository(repository), "boxes", lambda _: runtime)
    return {each.name: each for each in findings}


def test_check_model__that_is_well(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    found = diagnosed(tmp_path, FakeRuntime(max_batch_size=4, concurrency=2))
    expected = ["files", "graph", "inference", "repeated", "in a batch", "side by side"]
    assert list(found) == expected
    assert {each.level for each in found.values()} == {"ok"}
    assert found["inference"].data["median_ms"] > 0


def test_check_model__whose_graph_was_replaced(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "boxes")
    (folder / "1" / GRAPH_FILE).write_bytes(b"another graph")
    found = diagnosed(tmp_path, FakeRuntime())
    assert list(found) == ["files"]
    assert found["files"].level == "problem"
    assert "sha256" in found["files"].detail


def test_check_model__that_does_not_compile(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")

    def refuse(_: object) -> FakeRuntime:
        raise RuntimeError("no such\noperator")

    (_, graph) = check_model(ModelRepository(tmp_path), "boxes", refuse)
    assert (graph.name, graph.level, graph.detail) == ("graph", "problem", "no such operator")


def test_check_model__that_cannot_infer(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")

    def fail(_: object) -> None:
        raise RuntimeError("out of memory")

    found = diagnosed(tmp_path, FakeRuntime(fault=fail))
    assert found["inference"].level == "problem"
    assert "out of memory" in found["inference"].detail


class Wrong(FakeRuntime):
    """Spoils its outputs."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        super().__init__()
        self._spoilt = {name: values}

    def infer(self, images: np.ndarray) -> Outputs:
        return {**super().infer(images), **self._spoilt}


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("boxes", np.zeros((1, 1, 5), np.float32), "boxes has shape [1, 1, 5], not [1, 1, 4]"),
        ("boxes", np.full((1, 1, 4), np.nan, np.float32), "boxes has values that are no numbers"),
        ("scores", np.full((1, 1), 1.5, np.float32), "scores are not all between 0 and 1"),
        ("labels", np.full((1, 1), 3, np.int32), "labels are not all among the 3 classes"),
        ("scores", np.zeros((1, 2), np.float32), "2 candidates, where 1 are the most"),
    ],
)
def test_check_model__that_gives_nonsense(
    tmp_path: Path, name: str, values: np.ndarray, says: str
) -> None:
    write_model(tmp_path, "boxes")
    found = diagnosed(tmp_path, Wrong(name, values))
    assert found["inference"].level == "problem"
    assert says in found["inference"].detail


class Forgetful(FakeRuntime):
    """Gives other scores the more often it is asked, and to all but the first of a batch."""

    def __init__(self, *, by_call: float = 0.0, by_row: float = 0.0) -> None:
        super().__init__(max_batch_size=2)
        self._by_call, self._by_row = by_call, by_row

    def infer(self, images: np.ndarray) -> Outputs:
        outputs = dict(super().infer(images))
        lost = self._by_call * len(self.batch_sizes) + self._by_row * np.arange(len(images))
        return {**outputs, "scores": (outputs["scores"].T - lost).T.astype(np.float32)}


def test_check_model__that_answers_differently_each_time(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    assert diagnosed(tmp_path, Forgetful(by_call=0.05))["repeated"].level == "problem"


def test_check_model__that_answers_differently_in_a_batch(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    found = diagnosed(tmp_path, Forgetful(by_row=0.3))
    assert (found["repeated"].level, found["in a batch"].level) == ("ok", "problem")
    nearly = diagnosed(tmp_path, Forgetful(by_row=0.001))["in a batch"]
    assert (nearly.level, nearly.data["equal"]) == ("ok", False)


def test_check_models__no_repository(tmp_path: Path) -> None:
    (finding,) = check_models(ModelRepository(tmp_path / "none"), lambda _: FakeRuntime())
    assert finding.level == "problem"


def test_check_chosen__names_that_are_not_there() -> None:
    findings = check_chosen(["boxes"], ["boxes", "bokses"], "masks")
    assert [each.name for each in findings] == ["RTMDET_MODELS: bokses", "RTMDET_DEFAULT_MODEL"]
    assert check_chosen(["boxes"], ["boxes"], None) == []


# -- the port


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_check_port__free() -> None:
    assert check_port("127.0.0.1", free_port()).data == {"free": True}
    assert check_port("127.0.0.1", 0).level == "ok"


def test_check_port__taken_by_one_of_us(tmp_path: Path) -> None:
    with fake_serving(tmp_path) as client:
        finding = check_port("127.0.0.1", client.base_url.port)
    assert (finding.level, finding.data) == ("ok", {"free": False, "rtmdet": True})


@contextmanager
def other_program() -> Iterator[int]:
    """The port of a web server that answers everything with 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *arguments: object) -> None:
            """Tests are silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(30)


def test_check_port__taken_by_another_program() -> None:
    with other_program() as port:
        finding = check_port("127.0.0.1", port)
    assert (finding.level, finding.data) == ("problem", {"free": False, "rtmdet": False})
    assert "RTMDET_PORT" in finding.advice


def test_check_port__address_of_another_machine() -> None:
    finding = check_port("192.0.2.1", 8000)
    assert finding.level == "problem"
    assert "RTMDET_HOST" in finding.advice


def test_check_port__name_of_no_machine() -> None:
    """The numbers of these errors are no errnos; `rtmdet serve` says it in the same words."""
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo("nosuch.invalid", 8000)
    finding = check_port("nosuch.invalid", 8000)
    assert finding.detail == f"cannot listen: {caught.value.strerror}"


# -- certificate


NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def write_certificate(path: Path, until: datetime) -> None:
    """As files have them: the server's own first, then who signed it (valid for longer)."""
    issued = trustme.CA().issue_cert("localhost", not_after=until)
    path.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))


@pytest.mark.parametrize(
    ("until", "level", "says"),
    [
        (NOW + timedelta(days=15), "ok", "is valid until 2026-07-16 12:00 UTC"),
        (NOW + timedelta(days=14), "warning", "expires at 2026-07-15 12:00 UTC, days left: 14"),
        (NOW + timedelta(hours=1), "warning", "expires at 2026-07-01 13:00 UTC, days left: 0"),
        (NOW, "problem", "expired at 2026-07-01 12:00 UTC"),
        (datetime(2051, 1, 2, tzinfo=UTC), "ok", "is valid until 2051-01-02 00:00 UTC"),
    ],
)
def test_check_certificate__that_expires(
    tmp_path: Path, until: datetime, level: str, says: str
) -> None:
    path = tmp_path / "server.pem"
    write_certificate(path, until)
    finding = check_certificate(path, NOW)
    assert (finding.level, finding.detail) == (level, f"{path} {says}")
    assert ("renew" in finding.advice) == (level != "ok")


def test_check_certificate__that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    assert "No such file" in check_certificate(path, NOW).detail
    path.write_text("no certificate")
    assert "no certificate in PEM form" in check_certificate(path, NOW).detail
    write_certificate(path, NOW)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "-----END CERTIFICATE-----"]))
    finding = check_certificate(path, NOW)
    assert (finding.level, finding.detail) == ("problem", f"{path}: the certificate is damaged")


# -- settings


def test_read_settings__wrong_and_unknown_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTMDET_PORT", "70000")
    monkeypatch.setenv("RTMDET_MAX_QUEUE", "5")
    monkeypatch.setenv("RTMDET_HOSTT", "x")
    read = read_settings(os.environ, {})
    assert {each.name: each.level for each in read.findings} == {
        "RTMDET_PORT": "problem",
        "RTMDET_HOSTT": "problem",
    }
    assert level_of(list(read.findings), "RTMDET_HOSTT") == "problem"
    assert (read.settings.port, read.settings.max_queue) == (8000, 5)


def test_list_settings__tells_who_set_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RTMDET_MAX_QUEUE", "64")
    monkeypatch.setenv("RTMDET_PORT", "tcp://10.0.0.1:8000")
    overrides = {"model_repository": tmp_path}
    read = read_settings(os.environ, overrides)
    listed = {each.variable: each for each in list_settings(read, os.environ, overrides)}
    assert [listed[f"RTMDET_{name}"].origin for name in ("MODEL_REPOSITORY", "MAX_QUEUE")] == [
        "command line",
        "environment",
    ]
    assert listed["RTMDET_PORT"] == SettingInForce("RTMDET_PORT", "8000", "default")
    assert level_of(list(read.findings), "RTMDET_PORT") == "warning"


def test_settings__secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTMDET_HOST", "http://me:hidden@there")
    read = read_settings(os.environ, {})
    shown = {each.variable: each.value for each in list_settings(read, os.environ, {})}
    assert shown["RTMDET_HOST"] == "http://***@there"
    assert shown_value("admin_token", "hidden") == "(set)"
    assert shown_value("api_keys_file", Path("/etc/keys")) == "/etc/keys"
    assert shown_value("models", ("a", "b")) == "a,b"


# -- the machine

CPUINFO = """processor\t: 0
model name\t: Imagined CPU
flags\t\t: fpu avx2 avx512f avx512_bf16 sse

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


def test_parse_cpuinfo__instructions_that_matter() -> None:
    processor = parse_cpuinfo(CPUINFO)
    assert processor.model == "Imagined CPU"
    assert processor.instructions == ("AVX2", "AVX-512", "AVX-512 BF16")
    assert tell_precision(processor).data == {"auto": "bf16"}
    assert tell_precision(parse_cpuinfo("")).data == {"auto": "f32"}


@pytest.mark.parametrize(
    ("quota", "threads", "level"),
    [
        (None, 0, "ok"),
        (8.0, 0, "ok"),
        (2.5, 0, "ok"),
        (2.5, 8, "warning"),
        (2.5, 2, "ok"),
        (0.5, 1, "ok"),
    ],
)
def test_check_cores__quota_of_a_container(quota: float | None, threads: int, level: str) -> None:
    assert check_cores(8, quota, threads).level == level


def file_system(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_read_cgroup_limits__tightest_of_the_own_and_those_above(tmp_path: Path) -> None:
    file_system(
        tmp_path,
        proc__self__cgroup="0::/pod/container\n",
        sys__fs__cgroup__pod__cpu_DOT_max="150000 100000\n",
        sys__fs__cgroup__pod__container__cpu_DOT_max="max 100000\n",
        sys__fs__cgroup__pod__container__memory_DOT_max="1073741824\n",
    )
    assert read_cgroup_limits(tmp_path) == CgroupLimits(1.5, GIB)


def test_read_cgroup_limits__first_version(tmp_path: Path) -> None:
    file_system(
        tmp_path,
        sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us="200000\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us="100000\n",
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes="9223372036854771712\n",
    )
    assert read_cgroup_limits(tmp_path) == CgroupLimits(2.0, None)


def test_read_cgroup_limits__none(tmp_path: Path) -> None:
    assert read_cgroup_limits(tmp_path) == CgroupLimits(None, None)


def test_check_memory__bodies_must_fit() -> None:
    assert check_memory(16 * GIB, CgroupLimits(None, GIB), GIB // 2).level == "warning"
    assert check_memory(16 * GIB, CgroupLimits(None, 4 * GIB), GIB // 2).level == "ok"
    assert check_memory(None, CgroupLimits(None, None), GIB).level == "ok"


def test_check_open_files__every_connection_has_its_own() -> None:
    assert check_open_files(1024, 1000).level == "warning"
    assert check_open_files(65_536, 1000).level == "ok"
    assert check_open_files(-1, 1000).level == "ok"


def test_check_shared_memory__where_there_is_none(tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert check_shared_memory(is_needed=True, folder=none).level == "warning"
    assert check_shared_memory(is_needed=False, folder=none).level == "ok"


def test_check_disk__of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "new" / "repository").data["free_bytes"] > 0


@pytest.mark.parametrize(("mode", "level"), [(0o600, "ok"), (0o640, "warning"), (0o604, "warning")])
def test_check_secret_file__that_others_may_read(tmp_path: Path, mode: int, level: str) -> None:
    path = tmp_path / "keys"
    path.touch(mode)
    path.chmod(mode)
    assert check_secret_file("RTMDET_KEYS_FILE", path).level == level
    assert check_secret_file("RTMDET_KEYS_FILE", tmp_path / "none").level == "problem"


def test_doctor__looks_at_every_file_with_secrets(tmp_path: Path) -> None:
    keys, tls_key = tmp_path / "keys.jsonl", tmp_path / "server.key"
    for path in (keys, tls_key):
        path.touch()
        path.chmod(0o644)
    found = check_secret_files(Settings(api_keys_file=keys, tls_key=tls_key))
    assert [(each.name, each.level) for each in found] == [
        ("RTMDET_API_KEYS_FILE", "warning"),
        ("RTMDET_TLS_KEY", "warning"),
    ]


def test_check_gpus__by_nvidia_smi_or_by_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_gpus(tmp_path)[0].detail.startswith("none")
    file_system(
        tmp_path, proc__driver__nvidia__gpus__0__information="Model: \t\t Imagined GPU\nIRQ: 1\n"
    )
    assert check_gpus(tmp_path)[0].detail == "Imagined GPU"
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho driver mismatch; exit 9\n")
    smi.chmod(0o755)
    assert (check_gpus(tmp_path)[0].level, check_gpus(tmp_path)[0].detail) == (
        "warning",
        "nvidia-smi fails: driver mismatch",
    )
    (gpu,) = list_gpus(["Imagined, 80000 MiB, 580.1, 9.0"])
    assert gpu.name == "gpu 0"


def test_check_versions__needed_package_that_is_missing() -> None:
    findings = check_versions(lambda name: None if name == "openvino" else "1.0")
    assert [each.name for each in findings if each.level == "problem"] == ["openvino"]


def test_check_python__that_the_tests_have_not_run_with() -> None:
    assert [check_python(version).level for version in ((3, 10), (3, 11), (3, 14))] == [
        "warning",
        "ok",
        "warning",
    ]


# -- the report

FINE = Finding("port", "here", "ok", "free")


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [([], "ok"), (["ok", "warning"], "warning"), (["problem", "ok", "warning"], "problem")],
)
def test_report__verdict_is_that_of_the_worst(levels: list, verdict: str) -> None:
    assert Report([replace(FINE, level=level) for level in levels], []).verdict == verdict


def test_report__says_what_to_do_and_hides_the_home() -> None:
    finding = Finding("disk", "free", "warning", f"{Path.home()}/models is full", "make room")
    text = as_text(Report([FINE, finding], [SettingInForce("RTMDET_PORT", "8000", "default")]))
    assert "  warning free: ~/models is full\n          -> make room\n" in text
    assert "RTMDET_PORT=8000  (default)" in text
    assert text.endswith("0 problems, 1 warnings, 1 checks are ok")


def test_json__members_are_frozen() -> None:
    """Programs read them."""
    body = json.loads(as_json(Report([FINE], [SettingInForce("RTMDET_PORT", "1", "default")])))
    assert body == {
        "format": "rtmdet-doctor-1",
        "verdict": "ok",
        "findings": [
            {
                "area": "port",
                "name": "here",
                "level": "ok",
                "detail": "free",
                "advice": "",
                "data": {},
            }
        ],
        "settings": [{"variable": "RTMDET_PORT", "value": "1", "origin": "default"}],
    }


# -- the command


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rtmdet", "doctor", *arguments],
        cwd=PROJECT,
        env=os.environ | {"RTMDET_PORT": "0", "RTMDET_RUNTIME": "fake"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_doctor__all_is_well(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    done = doctor("--json", "--repository", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    body = json.loads(done.stdout)
    assert body["verdict"] in ("ok", "warning")
    assert {"versions", "processor", "limits", "port", "model boxes"} <= {
        each["area"] for each in body["findings"]
    }


def test_doctor__the_projects_own_models_are_well() -> None:
    """Real graphs of all tasks, by the real engine."""
    repository = PROJECT / "triton_repo"
    done = doctor("--json", "--repository", str(repository), RTMDET_RUNTIME="openvino")
    findings = json.loads(done.stdout)["findings"]
    inferred = {each["area"]: each["level"] for each in findings if each["name"] == "inference"}
    assert inferred == {f"model {name}": "ok" for name in ModelRepository(repository).names()}
    assert len(inferred) == 3
    assert done.returncode == 0


def test_doctor__problems_end_with_exit_code_1(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "boxes")
    (folder / "1" / GRAPH_FILE).write_bytes(b"damaged")
    done = doctor("--repository", str(tmp_path), RTMDET_PROT="80")
    assert done.returncode == 1
    assert "its sha256 is not the manifest's" in done.stdout
    assert "did you mean RTMDET_PORT?" in done.stdout


def test_doctor__certificate_that_has_expired(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "boxes")
    write_certificate(tmp_path / "server.pem", datetime(2020, 1, 1, tzinfo=UTC))
    repository, certificate = str(tmp_path / "models"), str(tmp_path / "server.pem")
    done = doctor("--repository", repository, RTMDET_TLS_CERTIFICATE=certificate)
    assert done.returncode == 1
    assert "server.pem expired at 2020-01-01 00:00 UTC" in done.stdout


def test_doctor__graph_that_is_none(tmp_path: Path) -> None:
    """The files are as the manifest says, and OpenVINO cannot read them."""
    write_model(tmp_path, "boxes")
    done = doctor("--json", "--repository", str(tmp_path), RTMDET_RUNTIME="openvino")
    assert done.returncode == 1
    problems = [each for each in json.loads(done.stdout)["findings"] if each["level"] == "problem"]
    assert [(each["area"], each["name"]) for each in problems] == [("model boxes", "graph")]


@pytest.mark.parametrize("arguments", [("--repository", "nowhere"), ("--colour",)])
def test_doctor__mistakes_of_the_caller_end_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert doctor(*arguments).returncode == 2


def test_doctor__imports_no_torch(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    script = (
        "import atexit, os, sys, rtmdet\n"
        "def tell():\n"
        "    if 'torch' in sys.modules:\n"
        "        os._exit(9)\n"
        "atexit.register(tell)\n"
        f"sys.argv = ['rtmdet', 'doctor', '--repository', {str(tmp_path)!r}]\n"
        "rtmdet.main()\n"
    )
    environment = os.environ | {"RTMDET_PORT": "0", "RTMDET_RUNTIME": "fake"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, env=environment, capture_output=True
    )
    assert done.returncode == 0
