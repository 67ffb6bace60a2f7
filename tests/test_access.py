"""Keys, their file, who is admitted, and how often: without any protocol."""

import hmac
import json
import logging
import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from service.access import keys as keys_module
from service.access.clients import Caller, network_of
from service.access.gate import Gate
from service.access.key_file import KeysFileError, read_keys, write_keys
from service.access.keys import PREFIX, SCOPES, KeyRing, create_key, digest_of
from service.access.presented import presented_keys
from service.access.start_policy import check_exposure
from service.access.watched_keys import WatchedKeys
from service.access.web_pages import refuse_names_of_other_machines, refuse_pages_of_other_sites
from service.errors import Forbidden, Unauthenticated
from service.settings import Settings, SettingsError
from service.wiring import build_gate
from tests.api_keys import NOW, add_key


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


# --------------------------------------------------------------------------------------------- keys


def test_create_key__is_random_and_recognisable() -> None:
    secrets = {create_key("a", ["detect"], now=NOW)[0] for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith(PREFIX)
        # base64 has 6 bits in a character.
        assert 6 * len(secret.removeprefix(PREFIX)) >= 256


def test_create_key__record_has_the_digest_alone() -> None:
    secret, key = create_key("a", ["detect"], now=NOW)
    assert key.sha256 == digest_of(secret)
    assert secret.removeprefix(PREFIX) not in key.model_dump_json()


def test_key_ring__finds_the_key_of_a_secret_and_of_no_other() -> None:
    made = [create_key(name, ["detect"], now=NOW) for name in ("a", "b", "c")]
    ring = KeyRing([key for _, key in made])
    assert [ring.find(secret) for secret, _ in made] == [key for _, key in made]
    for wrong in ("", PREFIX, made[0][0][:-1], made[0][0] + "x", made[0][1].sha256, "ä\udcff"):
        assert ring.find(wrong) is None


@pytest.mark.parametrize("which", [0, 1, 2, None])
def test_key_ring__compares_all_records_in_constant_time(
    which: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [create_key(name, ["detect"], now=NOW) for name in ("a", "b", "c")]
    compared: list[str] = []

    def noting(ours: str, theirs: str) -> bool:
        compared.append(ours)
        return hmac.compare_digest(ours, theirs)

    class Noting:
        compare_digest = staticmethod(noting)

    monkeypatch.setattr(keys_module, "hmac", Noting)
    KeyRing([key for _, key in made]).find("wrong" if which is None else made[which][0])
    assert compared == [key.sha256 for _, key in made]


# --------------------------------------------------------------------------------------------- file


def test_key_file__gives_back_what_was_written_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    made = [
        create_key("a", ["detect", "admin"], now=NOW)[1],
        create_key("b", ["train"], now=NOW, lifetime=timedelta(days=3))[1],
    ]
    previous = os.umask(0)
    try:
        write_keys(path, made)
    finally:
        os.umask(previous)
    assert list(read_keys(path)[0]) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_key_file__is_replaced_and_never_written_to(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    add_key(path, "a", ["detect"])
    with path.open() as opened:
        add_key(path, "b", ["detect"])
        assert len(opened.readlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["keys.jsonl"]


def test_key_file__link_stays_a_link(tmp_path: Path) -> None:
    there, link = tmp_path / "there.jsonl", tmp_path / "keys.jsonl"
    add_key(there, "a", ["detect"])
    link.symlink_to(there)
    add_key(link, "b", ["detect"])
    assert link.is_symlink()
    assert len(read_keys(there)[0]) == 2


def record(**changes: object) -> str:
    """A line of the file, the same each time: it names the test."""
    members = {"name": "a", "scopes": ["detect"], "sha256": 64 * "0", "created": str(NOW)}
    given = (members | changes).items()
    return json.dumps({name: value for name, value in given if value != "left out"})


SECRET = "rtmdet_this-must-never-be-shown"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("no json " + SECRET, "no JSON object"),
        ("[]", "no JSON object"),
        (record(scopes=["detect", SECRET]), "'scopes'"),
        (record(scopes=[]), "'scopes'"),
        (record(sha256=SECRET), "'sha256'"),
        (record(sha256="left out"), "'sha256'"),
        (record(name="a b"), "'name'"),
        (record(name="../x"), "'name'"),
        (record(created="2030-01-01T00:00:00"), "'created'"),
        (record(expires="tomorrow"), "'expires'"),
        (record(key=SECRET), "a record has only the members name, scopes"),
        (record(**{SECRET: 1}), "a record has only the members name, scopes"),
        (record(), "a second key named 'a'"),
        ("\ufeff" + record(name="b"), "no JSON object"),
    ],
)
def test_key_file__broken_names_the_line_and_shows_no_value(
    tmp_path: Path, line: str, says: str
) -> None:
    path = tmp_path / "keys.jsonl"
    path.write_text(f"{record()}\n\n{line}\n")
    path.chmod(0o600)
    with pytest.raises(KeysFileError) as raised:
        read_keys(path)
    message = str(raised.value)
    assert "keys.jsonl, line 3: " in message
    assert says in message
    assert SECRET not in message


def test_key_file__that_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError, match="rtmdet keys create NAME"):
        read_keys(tmp_path / "keys.jsonl")
    with pytest.raises(KeysFileError, match="no regular file"):
        read_keys(tmp_path)


@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o600, False), (0o640, False), (0o644, True), (0o660, True), (0o602, True)],
)
def test_key_file__open_to_others_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    path = tmp_path / "keys.jsonl"
    add_key(path, "a", ["detect"])
    path.chmod(mode)
    read_keys(path)
    assert [f"chmod 600 {path}" in each.message for each in caplog.records] == [True] * warned


# ------------------------------------------------------------------------------ a file that changes


def test_watched_keys__changes_are_noticed_after_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.jsonl", Clock()
    first = add_key(path, "a", ["detect"])
    watched = WatchedKeys(path, clock=clock)
    second = add_key(path, "b", ["detect"])
    clock.now_s += 0.9
    assert watched.current().find(second) is None
    clock.now_s += 0.1
    assert watched.current().find(second) is not None
    write_keys(path, [key for key in read_keys(path)[0] if key.name == "b"])
    clock.now_s += 1
    assert watched.current().find(first) is None


def test_watched_keys__written_in_place_is_noticed_too(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.jsonl", Clock()
    secret = add_key(path, "a", ["detect"])
    watched = WatchedKeys(path, clock=clock)
    path.write_text("")
    clock.now_s += 1
    assert watched.current().find(secret) is None


def test_watched_keys__file_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.jsonl", Clock()
    add_key(path, "a", ["detect"])
    watched = WatchedKeys(path, clock=clock)
    ring = watched.current()
    clock.now_s += 10
    assert watched.current() is ring


def test_watched_keys__broken_or_missing_file_keeps_the_keys_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys.jsonl", Clock()
    secret = add_key(path, "a", ["detect"])
    watched = WatchedKeys(path, clock=clock)

    def errors_after_a_look() -> list[str]:
        caplog.clear()
        clock.now_s += 1
        assert watched.current().find(secret) is not None
        return [each.message for each in caplog.records if each.levelno == logging.ERROR]

    path.write_text("broken")
    (told,) = errors_after_a_look()
    assert "line 1: no JSON object" in told
    assert "stay valid" in told
    assert errors_after_a_look() == []
    path.unlink()
    (told,) = errors_after_a_look()
    assert "there is no file of API keys" in told
    assert errors_after_a_look() == []
    new = add_key(path, "b", ["detect"])
    clock.now_s += 1
    assert watched.current().find(new) is not None
    assert watched.current().find(secret) is None


# ---------------------------------------------------------------------------------- who is admitted


@pytest.mark.parametrize(
    ("authorizations", "api_keys", "found"),
    [
        ([], [], set()),
        (["Bearer k"], [], {"k"}),
        (["bearer   k "], [], {"k"}),
        ([], [" k "], {"k"}),
        (["Bearer k"], ["k"], {"k"}),
        (["Bearer k"], ["l"], {"k", "l"}),
        (["Bearer k", "Bearer l"], [], {"k", "l"}),
        (["Basic k"], ["l"], {"l"}),
        (["Basic k", "k", "Bearer", "Bearer "], [""], set()),
        (["Bearer k l"], [], {"k l"}),
    ],
)
def test_presented_keys(authorizations: list[str], api_keys: list[str], found: set[str]) -> None:
    assert presented_keys(authorizations, api_keys) == found


def test_gate__admits_by_scope_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    secrets = {scope: add_key(path, scope, [scope]) for scope in SCOPES}
    gate = Gate(WatchedKeys(path), now=lambda: NOW)
    for need in SCOPES:
        for scope, secret in secrets.items():
            if scope == need:
                assert gate.admit(need, {secret}, "::1") == Caller(scope, "::1")
            else:
                with pytest.raises(Forbidden, match=f"needs the scope '{need}'.*has {scope}"):
                    gate.admit(need, {secret}, "::1")
    for secret in secrets.values():
        assert gate.admit("any-key", {secret}, "::1").key_name is not None
    assert gate.admit("nothing", {"wrong"}, "::1") == Caller(None, "::1")


def test_gate__refuses_missing_wrong_different_and_expired_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    good = add_key(path, "good", ["detect"])
    brief = add_key(path, "brief", ["detect"], lifetime=timedelta(days=1))
    moments = iter([NOW + timedelta(hours=23), NOW + timedelta(days=1)])
    gate = Gate(WatchedKeys(path), now=lambda: next(moments))
    assert gate.admit("detect", {brief}, "").key_name == "brief"
    refused = [
        ({brief}, "'brief' expired on 2030-01-02"),
        (set(), "Authorization: Bearer KEY"),
        ({"wrong"}, "not known"),
        ({good, "wrong"}, "different API keys"),
    ]
    for presented, says in refused:
        with pytest.raises(Unauthenticated, match=says) as raised:
            gate.admit("any-key", presented, "")
        assert not any(key in str(raised.value) for key in (*presented, good))


def test_caller__is_known_by_key_or_network() -> None:
    assert Caller("address:1.2.3.4", "5.6.7.8").identity == "key:address:1.2.3.4"
    assert Caller(None, "1.2.3.4").identity == "address:1.2.3.4"
    assert Caller(None, "2001:db8::1").identity == Caller(None, "2001:db8::ffff:1").identity
    assert Caller(None, "2001:db8::1").identity != Caller(None, "2001:db8:0:1::1").identity


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::/64"),
        ("2001:db8:a:b:c:d:e:f", "2001:db8:a:b::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("", ""),
        ("x" * 100, "x" * 64),
    ],
)
def test_network_of(address: str, network: str) -> None:
    assert network_of(address) == network


# ---------------------------------------------------------------------------------------- web pages


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.9.8.7:8000",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]",
    ],
)
def test_host__of_this_machine(host: str) -> None:
    refuse_names_of_other_machines([host])


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [""],
        ["evil.example"],
        ["evil.example:8000"],
        ["localhost.evil.example"],
        ["127.0.0.1.evil.example"],
        ["evil.localhost"],
        ["localhost@evil.example"],
        ["localhost:8000@evil.example"],
        ["evil.example/localhost"],
        ["localhost:"],
        ["localhost:80:80"],
        ["localhost:x"],
        ["localhost\n"],
        [" localhost"],
        ["128.0.0.1"],
        ["0.0.0.0"],
        ["2130706433"],
        ["0177.0.0.1"],
        ["127.1"],
        ["[::]"],
        ["[::1"],
        ["::1"],
        ["[127.0.0.1]"],
        ["[::1].evil.example"],
        ["localhost", "evil.example"],
        ["localhost", "localhost"],
    ],
)
def test_host__of_another_machine(hosts: list[str]) -> None:
    with pytest.raises(Forbidden):
        refuse_names_of_other_machines(hosts)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("HTTP://LocalHost:8000", "localhost:8000"),
        ("http://example.org", "example.org"),
        ("http://example.org", "example.org:80"),
        # Behind a proxy that ends TLS.
        ("https://example.org", "example.org"),
        ("https://example.org:443", "example.org"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_origin__of_the_server_itself(origin: str, host: str) -> None:
    refuse_pages_of_other_sites([origin], [host])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "localhost:8000"),
        ("http://localhost:8001", "localhost:8000"),
        ("http://localhost", "localhost:8000"),
        ("http://127.0.0.1:8000", "localhost:8000"),
        ("https://example.org", "example.org:80"),
        ("null", "localhost:8000"),
        ("", "localhost:8000"),
        ("localhost:8000", "localhost:8000"),
        ("file://localhost:8000", "localhost:8000"),
        ("chrome-extension://localhost:8000", "localhost:8000"),
        ("http://localhost:8000/", "localhost:8000"),
        ("http://evil@localhost:8000", "localhost:8000"),
        ("http://localhost:8000, http://evil.example", "localhost:8000"),
        ("http://", ""),
    ],
)
def test_origin__of_another_site(origin: str, host: str) -> None:
    with pytest.raises(Forbidden):
        refuse_pages_of_other_sites([origin], [host])
    with pytest.raises(Forbidden):
        refuse_pages_of_other_sites([f"http://{host}", origin], [host])


def test_gate__with_keys_leaves_web_pages_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    add_key(path, "a", ["detect"])
    with_keys = Gate(WatchedKeys(path))
    with_keys.guard_from_web_pages(hosts=["x"], origins=["http://y"], is_reading=False)


def test_gate__without_keys_guards_by_what_it_is_meant_for() -> None:
    waived, local = Gate(), Gate(only_this_machine=True)
    waived.guard_from_web_pages(hosts=["x"], origins=["http://y"], is_reading=True)
    local.guard_from_web_pages(hosts=["[::1]"], origins=["http://y"], is_reading=True)
    for gate in (waived, local):
        with pytest.raises(Forbidden):
            gate.guard_from_web_pages(hosts=["[::1]"], origins=["http://y"], is_reading=False)
    with pytest.raises(Forbidden):
        local.guard_from_web_pages(hosts=["x"], origins=[], is_reading=True)


# ---------------------------------------------------------------------------------------- the start

LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"]
REACHABLE = ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "example.org", "localhost.evil", "0"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_start__on_loopback_needs_no_keys(host: str) -> None:
    for num_usable in (None, 0, 1):
        check_exposure(host, num_usable_keys=num_usable, allow_anonymous=False)


@pytest.mark.parametrize("host", REACHABLE)
def test_start__where_others_reach_it_needs_a_usable_key(host: str) -> None:
    check_exposure(host, num_usable_keys=1, allow_anonymous=False)
    with pytest.raises(SettingsError, match=r"RTMDET_API_KEYS_FILE .*RTMDET_ALLOW_ANONYMOUS=true"):
        check_exposure(host, num_usable_keys=None, allow_anonymous=False)
    with pytest.raises(SettingsError, match="no key that is valid"):
        check_exposure(host, num_usable_keys=0, allow_anonymous=False)


@pytest.mark.parametrize("host", [LOOPBACK[0], REACHABLE[0]])
def test_start__anonymous_is_warned_of_and_contradicts_keys(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_exposure(host, num_usable_keys=None, allow_anonymous=True)
    assert "whoever reaches the server" in caplog.text
    with pytest.raises(SettingsError, match="contradict"):
        check_exposure(host, num_usable_keys=1, allow_anonymous=True)


def test_build_gate__expired_keys_are_not_usable(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    add_key(path, "a", ["detect"], lifetime=timedelta(days=-10_000))
    with pytest.raises(SettingsError, match="no key that is valid"):
        build_gate(Settings(host="0.0.0.0", api_keys_file=path))
    add_key(path, "b", ["detect"])
    build_gate(Settings(host="0.0.0.0", api_keys_file=path))


def test_build_gate__broken_or_missing_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    with pytest.raises(KeysFileError, match="there is no file"):
        build_gate(Settings(api_keys_file=path))
    path.write_text("broken")
    with pytest.raises(KeysFileError, match="line 1"):
        build_gate(Settings(api_keys_file=path))


@pytest.mark.parametrize(
    ("settings", "guards_names"),
    [(Settings(), True), (Settings(allow_anonymous=True, host="0.0.0.0"), False)],
)
def test_build_gate__guards_names_only_where_nobody_else_is_meant(
    settings: Settings, guards_names: bool
) -> None:
    gate = build_gate(settings)
    try:
        gate.guard_from_web_pages(hosts=["x"], origins=[], is_reading=True)
    except Forbidden:
        assert guards_names
    else:
        assert not guards_names


def test_build_gate__rate_limits_of_the_settings() -> None:
    assert build_gate(Settings()).rates is None
    rates = build_gate(Settings(rate_limit="1000/minute; 20/second")).rates
    assert rates is not None
    assert [each.policy for each in rates.allowances("a")] == ["1000/minute", "20/second"]


@pytest.mark.parametrize(
    "text", ["fast", "50", "0/second", "-1/second", "50/fortnight", "1/second;", "100001/second"]
)
def test_build_gate__wrong_rate_limit_names_the_setting(text: str) -> None:
    with pytest.raises(SettingsError, match=r"RTMDET_RATE_LIMIT=.*50/second"):
        build_gate(Settings(rate_limit=text))
