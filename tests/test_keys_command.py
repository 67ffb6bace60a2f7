"""`rtmdet keys`, and how `rtmdet serve` starts with what it made."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from service.access.key_file import changing, read_keys
from service.access.keys import digest_of
from service.commands.keys import keys
from tests.api_keys import add_key
from tests.conftest import PROJECT
from tests.repositories import write_model


def run(*parts: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(keys, [str(part) for part in parts], env=environment)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def test_create__prints_the_key_alone_and_keeps_its_digest(file: Path) -> None:
    result = run("create", "camera-1", "--scopes", "admin, detect", "--file", file)
    assert result.exit_code == 0, result.output
    secret = result.stdout.removesuffix("\n")
    assert re.fullmatch(r"rtmdet_[A-Za-z0-9_-]{43}", secret)
    assert secret not in result.stderr
    assert "camera-1" in result.stderr
    assert secret not in file.read_text()
    (key,) = read_keys(file)[0]
    assert (key.name, key.scopes, key.expires) == ("camera-1", ("detect", "admin"), None)
    assert key.sha256 == digest_of(secret)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_create__expires_after_the_days(file: Path) -> None:
    assert run("create", "a", "--scopes=detect", "--expires-days=30", "--file", file).exit_code == 0
    (key,) = read_keys(file)[0]
    assert key.expires is not None
    assert (key.expires - key.created).days == 30


def test_create__file_may_come_from_the_environment(file: Path) -> None:
    result = run("create", "a", "--scopes", "detect", RTMDET_API_KEYS_FILE=str(file))
    assert result.exit_code == 0, result.output
    assert file.exists()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (("a", "--scopes", "detect,all"), "no scope 'all': give some of detect,admin,train"),
        (("a", "--scopes", ""), "no scope ''"),
        (("a b", "--scopes", "detect"), "'a b' is no name for a key"),
        (("x" * 65, "--scopes", "detect"), "at most 64"),
        (("taken", "--scopes", "detect"), "there is a key named 'taken'"),
    ],
)
def test_create__mistake_is_one_line_and_leaves_the_file(
    file: Path, parts: tuple[str, ...], says: str
) -> None:
    run("create", "taken", "--scopes", "detect", "--file", file)
    before = file.read_bytes()
    result = run("create", *parts, "--file", file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
    assert file.read_bytes() == before


def test_create__broken_file_is_left_as_it_is(file: Path) -> None:
    file.write_text("broken")
    result = run("create", "a", "--scopes", "detect", "--file", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "line 1" in result.stderr
    assert file.read_text() == "broken"


def test_create__folder_that_is_not_there(tmp_path: Path) -> None:
    result = run("create", "a", "--scopes", "detect", "--file", tmp_path / "none" / "keys.jsonl")
    assert result.exit_code == 2
    assert f"no folder {tmp_path / 'none'}" in result.stderr


def test_create__waits_for_others_who_change_the_file(file: Path) -> None:
    command = [sys.executable, "-m", "rtmdet", "keys", "create", "b", "--scopes", "detect"]
    with changing(file):
        process = subprocess.Popen([*command, "--file", str(file)], cwd=PROJECT)
        lock = f":{(file.parent / '.keys.jsonl.lock').stat().st_ino} "
        while not any("->" in each and lock in each for each in held_locks()):
            assert process.poll() is None, "it did not wait"
            time.sleep(0.01)
        add_key(file, "a", ["detect"])
    assert process.wait(60) == 0
    assert [key.name for key in read_keys(file)[0]] == ["a", "b"]


def held_locks() -> list[str]:
    """As the kernel lists them; those that somebody waits for have an arrow."""
    return Path("/proc/locks").read_text().splitlines()


def test_list__for_people_and_for_programs(file: Path) -> None:
    secret = run("create", "a", "--scopes", "detect,train", "--file", file).stdout.strip()
    run("create", "b", "--scopes", "admin", "--expires-days", "1", "--file", file)
    lines = run("list", "--file", file).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["a", "detect,train"], ["b", "admin"]]
    assert lines[1].endswith("for ever")
    assert lines[2].endswith("UTC")
    as_json = run("list", "--json", "--file", file).stdout
    listed = json.loads(as_json)["keys"]
    assert [set(each) for each in listed] == [
        {"name", "scopes", "created", "expires", "expired"}
    ] * 2
    assert listed[0]["scopes"] == ["detect", "train"]
    assert [each["expired"] for each in listed] == [False, False]
    assert digest_of(secret) not in as_json


def test_list__says_which_have_expired(file: Path) -> None:
    run("create", "a", "--scopes", "detect", "--expires-days", "1", "--file", file)
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"expires": "2020-01-01T00:00:00Z"}))
    assert (
        run("list", "--file", file).stdout.splitlines()[1].endswith("expired 2020-01-01 00:00 UTC")
    )


def test_list__without_a_file(file: Path) -> None:
    result = run("list", "--file", file)
    assert result.exit_code == 2
    assert "there is no file of API keys" in result.stderr


def test_revoke__takes_one_away(file: Path) -> None:
    for name in ("a", "b"):
        run("create", name, "--scopes", "detect", "--file", file)
    assert run("revoke", "a", "--file", file).exit_code == 0
    assert [key.name for key in read_keys(file)[0]] == ["b"]
    again = run("revoke", "a", "--file", file)
    assert again.exit_code == 2
    assert "no key named 'a'" in again.stderr


# ---------------------------------------------------------------------------- a server with keys


def serve(folder: Path, *parts: str, **environment: str) -> "subprocess.Popen[str]":
    if not (folder / "repository").exists():
        write_model(folder / "repository", "boxes")
    command = [sys.executable, "-m", "rtmdet", "serve", "--repository", str(folder / "repository")]
    environment = {"RTMDET_RUNTIME": "fake", "RTMDET_PORT": "0"} | environment
    return subprocess.Popen(
        [*command, *parts],
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("host", "environment", "says"),
    [
        ("0.0.0.0", {}, "can be reached by others: set RTMDET_API_KEYS_FILE"),
        ("127.0.0.1", {"RTMDET_API_KEYS_FILE": "none.jsonl"}, "there is no file of API keys"),
        ("127.0.0.1", {"RTMDET_RATE_LIMIT": "fast"}, "RTMDET_RATE_LIMIT='fast'"),
    ],
)
def test_serve__start_is_refused_with_one_line(
    tmp_path: Path, host: str, environment: dict[str, str], says: str
) -> None:
    process = serve(tmp_path, "--host", host, **environment)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = output.splitlines()
    assert line.startswith("rtmdet: ")
    assert says in line


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_until_alive(url: str, process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        assert process.poll() is None, "the server ended"
        try:
            httpx.get(f"{url}/livez")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the server was not there in time")


def test_serve__with_keys_on_every_address_and_none_of_them_in_its_log(
    tmp_path: Path, file: Path
) -> None:
    secret = run("create", "a", "--scopes", "detect", "--file", file).stdout.strip()
    port = free_port()
    process = serve(
        tmp_path,
        *("--host", "0.0.0.0", "--port", str(port)),
        RTMDET_API_KEYS_FILE=str(file),
        RTMDET_LOG_LEVEL="debug",
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_alive(url, process)
        headers = {"Authorization": f"Bearer {secret}", "Host": "example.org"}
        assert httpx.get(f"{url}/models").status_code == 401
        assert httpx.get(f"{url}/models", headers=headers).status_code == 200
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        assert httpx.get(f"{url}/models", headers=headers | upgrade).status_code == 200
        # Taken up without a restart; the file is looked at once a second.
        assert run("revoke", "a", "--file", file).exit_code == 0
        while httpx.get(f"{url}/models", headers=headers).status_code == 200:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert "ready" in output
    assert secret.removeprefix("rtmdet_") not in output


def test_serve__without_keys_answers_to_this_machine_alone(tmp_path: Path) -> None:
    port = free_port()
    process = serve(tmp_path, "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_alive(url, process)
        assert httpx.get(f"{url}/models").status_code == 200
        assert httpx.get(f"{url}/models", headers={"Host": "evil.example"}).status_code == 403
        cross_site = {"Origin": "http://evil.example"}
        assert httpx.post(f"{url}/detect", headers=cross_site).status_code == 403
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_create__in_what_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys.jsonl"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/full")
    else:
        path.mkdir()
    for command in (["create", "a", "--scopes", "detect"], ["list"], ["revoke", "a"]):
        result = run(*command, "--file", path)
        assert result.exit_code == 2
        assert "no regular file" in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["keys.jsonl"]
    assert not path.is_file()


def test_create__a_key_that_could_not_be_shown_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    command = [sys.executable, "-m", "rtmdet", "keys", "create", "a", "--scopes", "detect"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--file", str(path)], stdout=full, cwd=PROJECT, check=False
        )
    assert done.returncode != 0
    assert run("list", "--file", path, "--json").stdout.strip().startswith('{\n  "keys": []')
