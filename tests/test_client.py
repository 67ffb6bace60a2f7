"""The client against the real interface, and against servers that answer what they should not."""

import asyncio
import inspect
import io
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import cv2
import httpx
import numpy as np
import pytest
import trustme
import uvicorn
from numpy.typing import NDArray

import rtmdet
import service.client
from service.client import (
    NO_RETRY,
    AsyncClient,
    BadAnswer,
    Client,
    ConnectionFailed,
    DetectionResult,
    DetectOptions,
    FieldError,
    Problem,
    ProblemError,
    RequestRefused,
)
from service.client.options import MaskFormat, Priority, detect_options
from service.client.pictures import FilePart, form_body, picture_piece
from service.detection import (
    MaskFormat as ServedMaskFormat,
)
from service.detection import (
    Priority as ServedPriority,
)
from service.http_api.app import create_app
from service.http_api.options import OptionFields
from service.http_api.uploads import parse_upload
from service.settings import Settings
from service.wiring import build_detector
from tests.client_kinds import KINDS, Kind
from tests.conftest import PROJECT
from tests.repositories import write_model
from tests.scripted_servers import (
    DETECTED,
    Script,
    ScriptedApp,
    as_json,
    conversing,
    page,
    scripted_server,
)
from tests.servers import running_server

WIDTH, HEIGHT = 96, 64


@pytest.fixture(params=KINDS, ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Makes a client of either kind; the tests that take it say what holds for both."""
    return request.param


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real interface with the fake runtime."""
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "boxes", input_size=(HEIGHT, WIDTH))
    write_model(repository, "other", input_size=(HEIGHT, WIDTH))
    write_model(repository, "second", input_size=(HEIGHT, WIDTH))
    broken = write_model(repository, "broken")
    (broken / "1" / "model.onnx").write_bytes(b"changed since")
    chosen = Settings(model_repository=repository, runtime="fake", max_image_bytes=100_000)
    with running_server(create_app(build_detector(chosen), max_buffered_bytes=10**8)) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    """A server that answers what the test has it answer."""
    with scripted_server() as script:
        yield script


def pixels(x: int = 10, y: int = 20, side: int = 30) -> NDArray[np.uint8]:
    """A grey picture in which the fake runtime sees a box at x, y."""
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    image[0, 0] = x, y, side - 1
    return image


def png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def piped(data: bytes) -> io.BufferedReader:
    """A file that can be read once only."""
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(data)
    return open(reading, "rb")


class FarFile:
    """What other libraries call a file: it can be read, and no more."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1) -> bytes:
        return self._data


def opened_behind(path: Path, before: bytes) -> io.BufferedReader:
    """Open at the picture, which stands behind something else."""
    path.write_bytes(before + path.read_bytes())
    file = open(path, "rb")  # noqa: SIM115 - whoever asks closes it
    file.seek(len(before))
    return file


@pytest.mark.parametrize(
    "give",
    [
        str,
        Path,
        Path.read_bytes,
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: path.open("rb"),
        lambda path: opened_behind(path, b"before"),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: piped(path.read_bytes()),
        lambda path: FarFile(path.read_bytes()),
        lambda _: pixels(),
        lambda _: pixels()[:, :, :].copy(order="F"),
    ],
    ids=[
        "str",
        "Path",
        "bytes",
        "bytearray",
        "memoryview",
        "file",
        "file within",
        "BytesIO",
        "pipe",
        "readable",
        "array",
        "columns first",
    ],
)
def test_detect__every_kind_of_picture(
    kind: Kind, url: str, tmp_path: Path, give: Callable[[Path], Any]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels()))
    picture = give(path)
    with kind(url) as client:
        result = client.detect(picture)
    if isinstance(picture, io.IOBase):
        picture.close()
    (found,) = result.detections
    assert (found.label, found.class_id, found.score) == ("person", 0, 0.9)
    assert found.box == (10.0, 20.0, 40.0, 50.0)
    assert (found.mask, found.rotated_box) == (None, None)
    assert (result.model.name, result.model.task) == ("boxes", "detect")
    assert (result.image.width, result.image.height) == (WIDTH, HEIGHT)
    assert result.timings_ms.total >= 0
    assert result.batch.size >= 1


def test_detect__options_reach_the_server(kind: Kind, url: str) -> None:
    with kind(url) as client:
        assert client.detect(pixels(), score_threshold=0.95).detections == ()
        assert client.detect(pixels(), classes=["car", 2]).detections == ()
        assert client.detect(pixels(), classes="car,person").detections != ()
        assert client.detect(pixels(), model="other").model.name == "other"
        assert client.detect(pixels(), model=None, class_agnostic_nms=True).detections != ()


def test_options__are_those_of_the_server() -> None:
    """Names and choices alike; the time is a matter of the call."""
    names = set(DetectOptions.__annotations__)
    assert names | {"timeout_ms"} == set(OptionFields.model_fields)
    assert names == set(inspect.signature(detect_options).parameters)
    assert get_args(MaskFormat) == get_args(ServedMaskFormat)
    assert get_args(Priority) == get_args(ServedPriority)


def test_options__typing_error_is_a_type_error(kind: Kind) -> None:
    with (
        kind("http://nowhere.invalid") as client,
        pytest.raises(TypeError, match="unexpected keyword argument 'scor_threshold'"),
    ):
        client.detect(b"", scor_threshold=0.4)


@pytest.mark.parametrize("classes", [[], (), ""])
def test_options__no_classes_do_not_mean_all(classes: object) -> None:
    with pytest.raises(ValueError, match="classes is empty"):
        detect_options(classes=classes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("picture", "error", "says"),
    [
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg"),
        (3, TypeError, "not int"),
        (io.StringIO("text"), TypeError, "'rb'"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "float32"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"\[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\[0, 4, 3\]"),
    ],
)
def test_detect__what_is_no_picture_is_not_sent(
    kind: Kind, picture: object, error: type[Exception], says: str
) -> None:
    with kind("http://nowhere.invalid") as client, pytest.raises(error, match=says):
        client.detect(picture)


def test_detect__array_that_no_jpeg_holds() -> None:
    with pytest.raises(ValueError, match="jpeg"):
        picture_piece(np.zeros((1, 70_000), np.uint8), "jpeg")


def test_detect__arrays_as_jpeg(kind: Kind, script: Script) -> None:
    url, seen = script(as_json(DETECTED))
    with kind(url, array_format="jpeg") as client:
        client.detect(pixels())
        client.detect(pixels()[:, :, 0])
    for request, channels in zip(seen, (3, 1), strict=True):
        decoded = cv2.imdecode(np.frombuffer(request.body, np.uint8), cv2.IMREAD_UNCHANGED)
        assert request.body.startswith(b"\xff\xd8\xff")
        assert decoded.shape[:2] == (HEIGHT, WIDTH)
        assert decoded.size == HEIGHT * WIDTH * channels


def test_file_part__tells_when_the_file_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    piece = picture_piece(path, "png")
    assert isinstance(piece, FilePart)
    path.write_bytes(b"123")
    with pytest.raises(OSError, match="shorter"):
        list(piece.chunks())


@pytest.mark.parametrize(("format", "magic"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff")])
def test_draw__gives_the_file(kind: Kind, url: str, format: str, magic: bytes) -> None:
    with kind(url) as client:
        drawn = client.draw(pixels(), format=format)
    assert drawn.startswith(magic)
    picture = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(picture.astype(int) - pixels()).max() > 60, "nothing is drawn"


def test_models__those_that_answer_and_those_that_do_not(kind: Kind, url: str) -> None:
    with kind(url) as client:
        models = {model.name: model for model in client.models()}
    assert set(models) == {"boxes", "other", "second", "broken"}
    boxes, broken = models["boxes"], models["broken"]
    assert (boxes.default, boxes.task, boxes.version) == (True, "detect", "1")
    assert boxes.classes[:2] == ("person", "car")
    assert boxes.input_size is not None
    assert (boxes.input_size.width, boxes.input_size.height) == (WIDTH, HEIGHT)
    assert boxes.thresholds["max_detections"] > 0
    assert broken.problem
    assert broken.task is None


def test_limits__are_those_of_the_server(kind: Kind, url: str) -> None:
    with kind(url) as client:
        limits = client.limits()
        with pytest.raises(RequestRefused) as raised:
            client.detect(bytes(limits.max_image_bytes + 1))
    assert limits.max_image_bytes == 100_000
    assert "jpeg" in limits.image_formats
    assert raised.value.code == "image-too-large"
    assert raised.value.limits == {"max_image_bytes": 100_000}


def test_is_ready__by_what_answers(kind: Kind, url: str, script: Script) -> None:
    with kind(url) as client:
        assert client.is_ready()
    url, seen = script(as_json({"status": "not ready"}, 503))
    with kind(url) as client:
        assert not client.is_ready()
    assert len(seen) == 1, "it is asked once"
    with kind("http://127.0.0.1:9", timeout_s=5) as client:
        assert not client.is_ready()
    url, _ = script(page(200))
    with kind(url) as client, pytest.raises(BadAnswer):
        client.is_ready()


def test_detect__refusal_has_the_whole_problem(kind: Kind, url: str) -> None:
    with kind(url) as client, pytest.raises(RequestRefused) as raised:
        client.detect(pixels(), score_threshold=2, request_id="mine-7")
    error = raised.value
    assert (error.status, error.code) == (422, "invalid-option")
    assert error.errors == (FieldError("/score_threshold", error.detail),)
    assert error.request_id == "mine-7"
    assert str(error) == f"{error.detail} [422 invalid-option] (request mine-7)"


def test_detect__unknown_model_says_which_there_are(kind: Kind, url: str) -> None:
    with kind(url) as client, pytest.raises(RequestRefused, match="boxes"):
        client.detect(pixels(), model="bokses")


def test_headers__key_id_and_own_ones(kind: Kind, script: Script) -> None:
    url, seen = script(as_json(DETECTED))
    with (
        kind(f"{url}/behind/a/proxy", api_key="s3cret", headers={"X-Team": "blue"}) as client,
    ):
        client.detect(b"picture", request_id="mine-1")
        client.detect(b"picture")
    first, second = seen
    assert first.path == "/behind/a/proxy/detect"
    assert first.headers["authorization"] == "Bearer s3cret"
    assert first.headers["x-team"] == "blue"
    assert first.headers["user-agent"].startswith("rtmdet-client/")
    assert first.headers["x-request-id"] == "mine-1"
    assert second.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("base_url", ["localhost:8000", "localhost", "ftp://host", "http://", ""])
def test_client__address_that_is_none(base_url: str) -> None:
    with pytest.raises(ValueError, match="http://localhost:8000"):
        Client(base_url)


@pytest.mark.parametrize("api_key", ["", " ", "two\nlines", "schlüssel"])
def test_client__key_that_no_header_holds(api_key: str) -> None:
    with pytest.raises(ValueError, match="api_key"):
        Client("http://localhost", api_key=api_key)


@pytest.mark.parametrize(
    "wrong", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"request_id": "a b"}]
)
def test_client__unusable_terms_of_a_call(kind: Kind, wrong: dict[str, Any]) -> None:
    with (
        kind("http://nowhere.invalid") as client,
        pytest.raises(ValueError, match=next(iter(wrong))),
    ):
        client.detect(b"picture", **wrong)


def test_client__calls_share_a_connection(script: Script) -> None:
    url, seen = script(as_json(DETECTED))
    with Client(url) as client:
        for _ in range(5):
            client.detect(b"picture")
    assert len({request.port for request in seen}) == 1


def test_client__threads_share_it(url: str) -> None:
    with Client(url) as client, ThreadPoolExecutor(8) as threads:

        def corner(number: int) -> tuple[float, ...]:
            place = number % 40, number // 40
            return client.detect(pixels(*place, side=5)).detections[0].box[:2]

        corners = list(threads.map(corner, range(100)))
    assert corners == [(number % 40, number // 40) for number in range(100)]


def test_async_client__many_calls_at_once(url: str) -> None:
    async def corners() -> list[tuple[float, ...]]:
        async with AsyncClient(url) as client:
            results = await asyncio.gather(
                *(client.detect(pixels(number, 1, side=5)) for number in range(40))
            )
        return [result.detections[0].box[:2] for result in results]

    assert asyncio.run(corners()) == [(number, 1) for number in range(40)]


def test_async_client__takes_an_application_for_a_server() -> None:
    """For the tests of those who call the service."""
    app = ScriptedApp(as_json(DETECTED))

    async def detect() -> DetectionResult:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with AsyncClient("http://inside", transport=transport) as client:
            return await client.detect(b"picture")

    assert asyncio.run(detect()).detections[0].label == "car"


def test_batch__each_picture_gets_its_own_answer(kind: Kind, url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels(1, 2, 3)))
    with kind(url) as client:
        first, second, third = client.detect_batch(
            [path, b"no picture", pixels(4, 5, 6)], model="other", request_id="mine-2"
        )
        assert client.detect_batch([pixels()], score_threshold=0.95)[0].detections == ()
    assert [first.id, third.id] == ["mine-2:0", "mine-2:2"]
    assert [each.detections[0].box for each in (first, third)] == [(1, 2, 4, 5), (4, 5, 10, 11)]
    assert {each.model.name for each in (first, third)} == {"other"}
    assert isinstance(second, Problem)
    assert (second.code, second.request_id) == ("undecodable-image", "mine-2:1")
    assert isinstance(second.as_error(), RequestRefused)


def test_batch__more_pictures_than_allowed(kind: Kind, url: str) -> None:
    with kind(url) as client:
        too_many = [b"picture"] * (client.limits().max_images_per_request + 1)
        with pytest.raises(RequestRefused, match="pictures"):
            client.detect_batch(too_many)


def test_models__loaded_and_unloaded(kind: Kind, url: str) -> None:
    with kind(url) as client:
        assert client.unload_model("second").state != "ready"
        with pytest.raises(ProblemError, match="second"):
            client.detect(pixels(), model="second", timeout_s=2)
        loaded = client.load_model("second", version=1)
        assert (loaded.name, loaded.state, loaded.version) == ("second", "ready", "1")
        assert client.detect(pixels(), model="second").model.name == "second"
        with pytest.raises(RequestRefused, match="7"):
            client.load_model("second", version=7)
        with pytest.raises(RequestRefused, match="none/of these"):
            client.load_model("none/of these")
        with pytest.raises(ValueError, match="name a model"):
            client.unload_model("")


def test_batch__is_one_form_with_the_options_as_fields(
    kind: Kind, tmp_path: Path, script: Script
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"from a file")
    url, seen = script(as_json({"id": "req_1", "results": [DETECTED] * 3}))
    with kind(url) as client:
        client.detect_batch(
            [path, b"no picture", pixels()], classes=["car", "person"], mask_format="none"
        )
    (request,) = seen
    assert request.path == "/detect:batch"
    *fields, timeout, a, b, c = request.parts
    assert fields == [("mask_format", b"none"), ("classes", b"car"), ("classes", b"person")]
    assert timeout[0] == "timeout_ms"
    assert [a, b] == [("images", b"from a file"), ("images", b"no picture")]
    assert c == ("images", png_of_client())
    assert int(request.headers["content-length"]) == len(request.body)


def png_of_client() -> bytes:
    piece = picture_piece(pixels(), "png")
    assert isinstance(piece, bytes)
    return piece


def test_batch__form_is_read_by_the_parser_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\r\n--not a boundary\r\n\r\n")
    body = form_body([picture_piece(path, "png")], (("classes", "naïve, \r\nclass"),))
    upload = parse_upload(body.content_type, b"".join(body.chunks()))
    assert upload.images == (path.read_bytes(),)
    assert upload.options == [("classes", "naïve, \r\nclass")]


def test_batch__fewer_results_than_pictures(script: Script) -> None:
    answer = as_json({"id": "req_1", "results": [DETECTED]})
    url, _ = script(answer)
    with (
        Client(url) as client,
        pytest.raises(BadAnswer, match="1 results of 2 pictures"),
    ):
        client.detect_batch([b"one", b"two"])


@pytest.mark.parametrize(
    ("pictures", "error"),
    [([], ValueError), ("a.jpg", TypeError), (b"jpeg", TypeError), (pixels(), TypeError)],
)
def test_batch__what_are_no_pictures(pictures: Any, error: type[Exception]) -> None:
    with Client("http://nowhere.invalid") as client, pytest.raises(error, match="picture"):
        client.detect_batch(pictures)


def test_batch__stack_of_arrays(script: Script) -> None:
    answer = as_json({"id": "req_1", "results": [DETECTED, DETECTED]})
    url, seen = script(answer)
    with Client(url) as client:
        stack = np.stack([pixels(1), pixels(2)])
        client.detect_batch(stack)  # pyright: ignore[reportArgumentType]
    assert [name for name, _ in seen[0].parts].count("images") == 2


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_url(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that shows a certificate and asks for one."""
    folder = tmp_path_factory.mktemp("certificates")
    own, trusted = folder / "own.pem", folder / "trusted.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
    authority.cert_pem.write_to_path(trusted)
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config(
        ScriptedApp(as_json(DETECTED)),  # pyright: ignore[reportArgumentType]
        host="127.0.0.1",
        port=0,
        log_config=None,
        ssl_certfile=own,
        ssl_ca_certs=str(trusted),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(30)
    yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def test_tls__own_authority_and_client_certificate(
    kind: Kind, authority: trustme.CA, tls_url: str
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("client@example.org").configure_cert(context)
    with kind(tls_url, ssl_context=context) as client:
        assert client.detect(b"picture").detections[0].label == "car"


def test_tls__unknown_authority_is_told_at_once(kind: Kind, tls_url: str) -> None:
    with kind(tls_url) as client:
        with pytest.raises(ConnectionFailed, match=r"certificate is not trusted.*ssl_context"):
            client.detect(b"picture")
        with pytest.raises(ConnectionFailed):
            client.is_ready()


def test_tls__with_a_server_that_has_none_is_told_at_once(kind: Kind) -> None:
    accepted: list[bytes] = []

    def speak_http(connection: socket.socket) -> None:
        accepted.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with (
        conversing(speak_http, speak_http) as url,
        kind(url.replace("http:", "https:")) as client,
        pytest.raises(ConnectionFailed, match="is it http instead of https") as caught,
    ):
        client.detect(b"picture")
    assert not caught.value.may_pass
    assert len(accepted) == 1


def test_tls__handshake_that_is_cut_off_may_pass(kind: Kind) -> None:
    """As it is when a server restarts."""

    def hang_up(connection: socket.socket) -> None:
        connection.recv(65536)

    with (
        conversing(hang_up) as url,
        kind(url.replace("http:", "https:"), retry=NO_RETRY) as client,
        pytest.raises(ConnectionFailed) as caught,
    ):
        client.detect(b"picture")
    assert caught.value.may_pass


# What importing it does.


def test_import__brings_nothing_of_the_server_and_changes_nothing() -> None:
    """Neither what is heavy: arrays are imported where one is given or asked for."""
    script = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "from rtmdet import AsyncClient, Client\n"
        "Client('http://localhost').close()\n"
        "heavy = {'cv2', 'fastapi', 'model', 'numpy', 'openvino', 'pydantic_settings', "
        "'starlette', 'torch', 'uvicorn'}\n"
        "print(sorted(heavy & set(sys.modules)), before == dict(os.environ))\n"
        "print(*(name for name in sys.modules if name.startswith('service.')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    changed, ours = done.stdout.splitlines()
    assert changed == "[] True"
    assert {name for name in ours.split() if not name.startswith("service.client")} == {
        "service.timeouts",
        "service.version",
    }


def test_import__root_module_has_every_name_of_the_client() -> None:
    for name in service.client.__all__:
        assert getattr(rtmdet, name) is getattr(service.client, name)
    assert not hasattr(rtmdet, "Kunde")


def test_import__says_how_to_install_what_is_missing() -> None:
    script = "import sys; sys.modules['httpx'] = None\nfrom rtmdet import Client"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert "pip install '.[client]'" in done.stderr.splitlines()[-1]
