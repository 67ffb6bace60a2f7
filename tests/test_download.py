import hashlib
import io
import os
import random
import socket
from pathlib import Path

import pytest
from rich.console import Console

from model.checkpoints.download import MAX_ATTEMPTS, DownloadFailed, WrongDigest, download
from model.checkpoints.download_progress import shown
from tests.file_server import FileServer, serving

CONTENT = random.Random(0).randbytes(900_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


class Pauses:
    """Takes the place of sleeping, and remembers for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def fetch(server: FileServer, path: Path, pauses: Pauses | None = None) -> Path:
    return download(
        server.url + "a.pth", path, sha256_prefix=DIGEST, pause=pauses or Pauses(), timeout_s=5
    )


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def leave_part(path: Path, content: bytes, validator: str | None = '"v1"') -> None:
    """What an interrupted process leaves."""
    path.with_name(path.name + ".part").write_bytes(content)
    if validator:
        path.with_name(path.name + ".part.validator").write_text(validator)


def test_download__brings_the_whole_file_and_nothing_else(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(CONTENT) as server:
        path = download(
            server.url,
            tmp_path / "deep" / "a.pth",
            sha256_prefix=DIGEST,
            progress=lambda *state: seen.append(state),
        )
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["a.pth"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_download__takes_an_unknown_length(tmp_path: Path) -> None:
    with serving(CONTENT, says_length=False) as server:
        assert fetch(server, tmp_path / "a.pth").read_bytes() == CONTENT


def test_download__leaves_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(CONTENT)
    with serving(b"") as server:
        fetch(server, path)
        assert server.requests == []


def test_download__replaces_a_file_with_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"something else")
    with serving(CONTENT) as server:
        fetch(server, path)
    assert path.read_bytes() == CONTENT


# ---------------------------------------------------------------------------------- interruptions


def test_download__goes_on_where_the_connection_broke(tmp_path: Path) -> None:
    pauses = Pauses()
    with serving(CONTENT, cuts=[300_000, 300_000]) as server:
        path = fetch(server, tmp_path / "a.pth", pauses)
        assert server.bytes_sent == len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [
        None, "bytes=300000-", "bytes=600000-",
    ]  # fmt: skip
    assert [request.get("If-Range") for request in server.requests] == [None, '"v1"', '"v1"']
    assert len(pauses.seconds) == 2


def test_download__goes_on_where_an_earlier_process_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    leave_part(path, CONTENT[:500_000])
    with serving(CONTENT) as server:
        assert fetch(server, path).read_bytes() == CONTENT
        assert server.bytes_sent == len(CONTENT) - 500_000
    assert names(tmp_path) == ["a.pth"]


def test_download__finishes_a_part_that_is_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    leave_part(path, CONTENT)
    with serving(CONTENT) as server:
        assert fetch(server, path).read_bytes() == CONTENT
        assert server.bytes_sent == 0


def test_download__starts_again_when_the_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    leave_part(path, b"of another version" * 100, validator='"v0"')
    with serving(CONTENT) as server:
        assert fetch(server, path).read_bytes() == CONTENT
        assert server.bytes_sent == len(CONTENT)


def test_download__starts_again_when_the_server_takes_no_ranges(tmp_path: Path) -> None:
    with serving(CONTENT, takes_ranges=False, cuts=[300_000]) as server:
        assert fetch(server, tmp_path / "a.pth").read_bytes() == CONTENT
        assert server.bytes_sent == len(CONTENT) + 300_000


def test_download__starts_again_when_the_part_is_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    leave_part(path, CONTENT + b"more")
    with serving(CONTENT) as server:
        assert fetch(server, path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("etag", "last_modified", "condition"),
    [
        ('"v1"', "Tue, 01 Nov 2022 00:00:00 GMT", '"v1"'),
        ('W/"v1"', "Tue, 01 Nov 2022 00:00:00 GMT", "Tue, 01 Nov 2022 00:00:00 GMT"),
        ('W/"v1"', None, None),
        (None, None, None),
    ],
)
def test_download__names_the_version_that_it_has_a_part_of(
    tmp_path: Path, etag: str | None, last_modified: str | None, condition: str | None
) -> None:
    with serving(CONTENT, etag=etag, last_modified=last_modified, cuts=[9]) as server:
        assert fetch(server, tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.requests[1].get("If-Range") == condition


def test_download__tries_again_when_the_server_is_busy(tmp_path: Path) -> None:
    pauses = Pauses()
    with serving(CONTENT, statuses=[503, 429, 500]) as server:
        assert fetch(server, tmp_path / "a.pth", pauses).read_bytes() == CONTENT
    assert pauses.seconds == [1, 2, 4]


def test_download__gives_up_when_nothing_arrives_and_keeps_the_part(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with serving(CONTENT, cuts=[1000] + [0] * 9) as server:
        with pytest.raises(DownloadFailed, match="ended after 1000 of 900000 bytes"):
            fetch(server, path)
        assert len(server.requests) == MAX_ATTEMPTS
    assert path.with_name("a.pth.part").read_bytes() == CONTENT[:1000]
    assert not path.exists()


# --------------------------------------------------------------------------------------- refusals


def test_download__removes_a_file_with_another_digest(tmp_path: Path) -> None:
    with serving(CONTENT[:-1] + b"!") as server:
        with pytest.raises(WrongDigest, match="does not have the published sha256"):
            fetch(server, tmp_path / "a.pth")
        assert len(server.requests) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_download__reports_what_the_server_refuses_at_once(tmp_path: Path, status: int) -> None:
    pauses = Pauses()
    with (
        serving(CONTENT, statuses=[status] * 9) as server,
        pytest.raises(DownloadFailed, match=f"the server answered {status}"),
    ):
        fetch(server, tmp_path / "a.pth", pauses)
    assert pauses.seconds == []


def test_download__reports_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    pauses = Pauses()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.pth"
        with pytest.raises(DownloadFailed, match=r"cannot be reached: .*refused"):
            download(url, tmp_path / "a.pth", pause=pauses)
    assert len(pauses.seconds) == MAX_ATTEMPTS - 1


def test_download__gives_up_on_a_server_that_says_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.pth"
        with pytest.raises(DownloadFailed, match="timed out"):
            download(url, tmp_path / "a.pth", pause=Pauses(), timeout_s=0.05)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_download__reports_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "a.pth.part").symlink_to("/dev/full")
    with (
        serving(CONTENT) as server,
        pytest.raises(DownloadFailed, match=r"No space left on device.*when there is room"),
    ):
        fetch(server, tmp_path / "a.pth")


def test_download__refuses_a_file_that_the_disk_cannot_hold(tmp_path: Path) -> None:
    class Vast(bytes):
        def __len__(self) -> int:
            return 10**15

    with (
        serving(Vast(b"x")) as server,
        pytest.raises(DownloadFailed, match="needs 1000000000 MB"),
    ):
        fetch(server, tmp_path / "a.pth")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.pth",
        "http://192.168.0.1/a.pth",
        "ftp://127.0.0.1/a.pth",
        "file:///etc/passwd",
        "https:///a.pth",
        "a.pth",
    ],
)
def test_download__takes_https_addresses_alone(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="is no https address"):
        download(url, tmp_path / "a.pth")


@pytest.mark.parametrize("target", ["http://example.com/a.pth", "file:///etc/passwd"])
def test_download__follows_no_redirect_to_an_unsafe_address(tmp_path: Path, target: str) -> None:
    with (
        serving(CONTENT, redirect=target) as server,
        pytest.raises(
            DownloadFailed, match=r"the server.*edirect.* (is no https address|is not allowed)"
        ),
    ):
        fetch(server, tmp_path / "a.pth")


def test_download__follows_a_redirect_and_still_goes_on(tmp_path: Path) -> None:
    with (
        serving(CONTENT, cuts=[100_000]) as target,
        serving(b"", redirect=target.url + "b.pth") as server,
    ):
        assert fetch(server, tmp_path / "a.pth").read_bytes() == CONTENT
        assert target.bytes_sent == len(CONTENT)


# --------------------------------------------------------------------------------------- progress


def test_progress__is_a_line_per_tenth_where_there_is_no_terminal() -> None:
    log = io.StringIO()
    with shown("a.pth", Console(file=log, width=20)) as report:
        for received in range(0, 10_000_001, 100_000):
            report(received, 10_000_000)
    lines = log.getvalue().splitlines()
    assert len(lines) == 11
    assert (lines[0], lines[-1]) == ("a.pth: 0 % of 10.0 MB", "a.pth: 100 % of 10.0 MB")


def test_progress__says_nothing_in_a_log_of_an_unknown_length() -> None:
    log = io.StringIO()
    with shown("a.pth", Console(file=log)) as report:
        report(5, None)
    assert log.getvalue() == ""


def test_progress__is_a_bar_on_a_terminal() -> None:
    terminal = io.StringIO()
    with shown("a.pth", Console(file=terminal, force_terminal=True, width=80)) as report:
        report(0, None)
        report(2_500_000, 5_000_000)
    assert "2.5/5.0 MB" in terminal.getvalue()
