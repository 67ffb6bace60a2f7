"""`rtmdet detect --server`: the same output as without, from a server."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.http_api.app import create_app
from service.settings import Settings
from service.wiring import build_detector
from tests.conftest import PROJECT
from tests.repositories import write_model
from tests.scripted_servers import DETECTED, Script, as_json, problem, scripted_server
from tests.servers import running_server

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    write_model(root, "boxes", input_size=(HEIGHT, WIDTH))
    write_model(root, "other", input_size=(HEIGHT, WIDTH))
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[str]:
    chosen = Settings(model_repository=repository, runtime="fake")
    with running_server(create_app(build_detector(chosen), max_buffered_bytes=10**8)) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with scripted_server() as script:
        yield script


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Twelve, each with a box at another place."""
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
        image[0, 0] = 3 * number, number, 20
        cv2.imwrite(str(path), image)
    return paths


def detect(*parts: object, **environment: object) -> "subprocess.CompletedProcess[str]":
    """Without a repository, unless the environment names one."""
    settings = {"RTMDET_MODEL_REPOSITORY": "/nowhere", "RTMDET_RUNTIME": "fake"} | environment
    return subprocess.run(
        [sys.executable, "-m", "rtmdet", "detect", *map(str, parts)],
        env=os.environ | {name: str(value) for name, value in settings.items()},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_detect__prints_and_draws_what_it_would_without_a_server(
    server: str, repository: Path, pictures: list[Path], tmp_path: Path
) -> None:
    here, there = tmp_path / "out" / "here", tmp_path / "out" / "there"
    options = ["--model", "other", "--classes", "person", "--score-threshold", "0.2"]
    ours = detect(*pictures, *options, "--out", here, RTMDET_MODEL_REPOSITORY=repository)
    theirs = detect(*pictures, *options, "--out", there, "--server", server)

    def comparable(text: str) -> str:
        return re.sub(r"\d+ ms", "- ms", text).replace(str(here), str(there))

    assert comparable(theirs.stdout) == comparable(ours.stdout)
    assert theirs.stdout.count("1 detection, other") == 12
    assert (theirs.returncode, theirs.stderr) == (0, "")
    names = sorted(path.name for path in there.iterdir())
    assert names == sorted(f"{path.stem}.detected.jpg" for path in pictures)
    for name in names:
        assert (there / name).read_bytes() == (here / name).read_bytes()


def test_detect__json_is_the_same(server: str, repository: Path, pictures: list[Path]) -> None:
    ours = detect(*pictures[:3], "--json", RTMDET_MODEL_REPOSITORY=repository)
    theirs = detect(*pictures[:3], "--json", "--server", server)

    def comparable(line: str) -> dict[str, object]:
        document = json.loads(line)
        document["timings_ms"] = sorted(document["timings_ms"])
        del document["batch"]
        return document

    assert [*map(comparable, theirs.stdout.splitlines())] == [
        *map(comparable, ours.stdout.splitlines())
    ]
    assert [json.loads(line)["id"] for line in theirs.stdout.splitlines()] == [
        str(path) for path in pictures[:3]
    ]


def test_detect__bad_pictures_are_reported_and_the_rest_go_on(
    server: str, pictures: list[Path], tmp_path: Path
) -> None:
    bad, missing = tmp_path / "bad.jpg", tmp_path / "missing.jpg"
    bad.write_bytes(b"no picture")
    done = detect(pictures[0], bad, missing, pictures[1], "--server", server)
    assert done.returncode == 2
    heads = [line.partition(":")[0] for line in done.stdout.splitlines() if line[0] != " "]
    assert heads == [str(pictures[0]), str(pictures[1])]
    of_bad, of_missing = done.stderr.splitlines()
    assert of_bad.startswith(f"{bad}: The bytes are no image")
    assert of_missing == f"{missing}: No such file or directory"


@pytest.fixture(params=["here", "server"])
def place(request: pytest.FixtureRequest, server: str, repository: Path) -> list[object]:
    """Options that say where to detect."""
    if request.param == "here":
        return ["--repository", repository]
    return ["--server", server]


def test_detect__a_file_without_an_end_is_a_bad_picture(
    place: list[object], pictures: list[Path]
) -> None:
    done = detect("/dev/zero", pictures[0], *place)
    assert done.returncode == 2
    assert done.stderr == (
        "/dev/zero: it has more than the 33554432 bytes that a picture may have\n"
    )
    assert done.stdout.startswith(f"{pictures[0]}: 1 detection")


def test_detect__a_pipe_is_drawn_too(
    place: list[object], pictures: list[Path], tmp_path: Path
) -> None:
    """What can be read once is sent twice."""
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", 'cat "$0" > "$1"', pictures[0], pipe]) as writing:
        done = detect(pipe, "--out", out, *place)
    assert (done.returncode, done.stderr, writing.returncode) == (0, "", 0)
    assert cv2.imread(str(out / "pipe.detected.jpg")) is not None


def test_detect__leaves_no_part_of_a_drawn_picture_on_a_full_disk(
    place: list[object], pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    program = (
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "runpy.run_module('rtmdet', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "detect", *pictures[:3], "--out", out, *map(str, place)],
        env=os.environ | {"RTMDET_RUNTIME": "fake"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(".detected.jpg: File too large")
    assert list(out.iterdir()) == []


def test_detect__file_name_that_is_no_utf_8(
    place: list[object], pictures: list[Path], tmp_path: Path
) -> None:
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    named.write_bytes(pictures[0].read_bytes())
    done = detect(named, "--json", *place)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["id"] == f"{tmp_path}/caf\\xe9.png"
    done = detect(named, "--out", tmp_path / "out", *place)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"drawn: {tmp_path}/out/caf\\xe9.detected.jpg" in done.stdout
    assert b"caf\xe9.detected.jpg" in os.listdir(os.fsencode(tmp_path / "out"))


class LateFirst:
    """Answers nobody before eight have asked, and whoever sent `first` after the other seven."""

    def __init__(self, first: bytes) -> None:
        self.most_at_once = 0
        self._first = first
        self._asking = self._answered = 0
        self._eight_asked, self._seven_answered = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        self._asking += 1
        self.most_at_once = max(self.most_at_once, self._asking)
        if self._asking == 8:
            self._eight_asked.set()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await (self._seven_answered if body == self._first else self._eight_asked).wait()
        self._asking -= 1
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(DETECTED).encode()})
        self._answered += 1
        if self._answered == 7:
            self._seven_answered.set()


def test_detect__eight_at_once_and_in_order(pictures: list[Path]) -> None:
    app = LateFirst(pictures[0].read_bytes())
    with running_server(app) as client:  # pyright: ignore[reportArgumentType]
        done = detect(*pictures, "--json", "--server", client.base_url)
    assert done.stderr == ""
    printed = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert printed == [str(path) for path in pictures]
    assert app.most_at_once == 8


def test_detect__nobody_listens_is_one_line(pictures: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = detect(*pictures, "--server", url)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"rtmdet: no answer from {url}, 4 times")


@pytest.mark.parametrize("form", ["{}", "{}/detect", "{}/detect/"])
def test_detect__server_without_a_scheme_or_with_the_path_of_detections(
    script: Script, pictures: list[Path], form: str
) -> None:
    url, seen = script(as_json(DETECTED))
    done = detect(pictures[0], "--server", form.format(url.removeprefix("http://")))
    assert done.returncode == 0, done.stderr
    assert [request.path for request in seen] == ["/detect"]


def test_detect__key_from_the_option_or_the_environment(
    script: Script, pictures: list[Path]
) -> None:
    url, seen = script(as_json(DETECTED))
    detect(pictures[0], "--server", url, RTMDET_API_KEY="of-environment")
    detect(pictures[0], "--server", url, "--api-key", "of-option", RTMDET_API_KEY="other")
    sent = [request.headers["authorization"] for request in seen]
    assert sent == ["Bearer of-environment", "Bearer of-option"]


def test_detect__refused_key_is_one_line(script: Script, pictures: list[Path]) -> None:
    url, _ = script(problem(401, "unauthenticated", "send a key that is known"))
    done = detect(*pictures, "--server", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rtmdet: send a key that is known [401 unauthenticated] (request req_server); "
        "give the key by --api-key or RTMDET_API_KEY\n"
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--repository", "triton_repo"], "give --server or --repository"),
        (["--score-threshold", "2"], "score_threshold='2'"),
        (["--server", "localhost"], "write it as http://localhost:8000"),
    ],
)
def test_detect__mistake_in_the_options_asks_nobody(options: list[str], says: str) -> None:
    done = detect("a.jpg", "--server", "http://nowhere.invalid", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("rtmdet: ")
    assert says in done.stderr


def test_detect__needs_no_runtime_and_no_model(server: str, pictures: list[Path]) -> None:
    """Nor what the server's interface is made of."""
    arguments = ["rtmdet", "detect", str(pictures[0]), "--server", server]
    program = (
        f"import sys; sys.argv = {arguments!r}; import rtmdet\n"
        "try: rtmdet.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'fastapi', 'openvino', 'torch', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"RTMDET_MODEL_REPOSITORY": "/nowhere"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1 detection, boxes" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_detect__ends_quietly_when_nobody_reads(server: str, pictures: list[Path]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "rtmdet", "detect", *pictures, "--server", server],
            cwd=PROJECT,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")
