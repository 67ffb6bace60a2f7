"""The HTTP interface on a real server, with the fake runtime behind it."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.repository import ModelRepository, RepositoryModel
from service import errors
from service.codecs.images import DecodedImage, ImageLimits
from service.detection import (
    Detection,
    DetectionResult,
    DetectOptions,
    ModelIdentity,
    Timings,
)
from service.detector import Detector, DetectorLimits
from service.errors import DeadlineExceeded
from service.http_api.app import create_app
from service.http_api.problems import HTTP_STATUS, all_problems
from service.http_api.routes import _Answer
from service.http_api.schemas import DetectSchema
from service.registry import ModelRegistry
from service.runtime.fake import FakeRuntime
from service.scheduler.call_threads import CallThreads
from service.settings import Settings
from service.wiring import build_detector
from tests.held_serving import all_ready
from tests.repositories import CLASSES, write_model
from tests.servers import running_server

WIDTH, HEIGHT = 96, 64
MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "boxes", input_size=(HEIGHT, WIDTH))
    write_model(repository, "other", input_size=(HEIGHT, WIDTH))
    broken = write_model(repository, "broken")
    (broken / "1" / "model.onnx").write_bytes(b"changed since")
    settings = Settings(
        model_repository=repository,
        runtime="fake",
        max_image_bytes=MAX_BYTES,
        max_image_pixels=1_000_000,
    )
    with running_server(create_app(build_detector(settings), max_buffered_bytes=10**8)) as client:
        yield client


def picture(x: int = 10, y: int = 20, side: int = 30) -> NDArray[np.uint8]:
    """A grey picture in which the fake runtime sees a box at x, y."""
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    image[0, 0] = x, y, side - 1
    return image


def png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def post(client: httpx.Client, content: bytes = b"", **options: str) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return client.post(
        "/detect", content=content or png(picture()), params=options, headers=headers
    )


def assert_problem(response: httpx.Response, status: int, code: str, *says: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["instance"] == response.request.url.path
    for text in says:
        assert text in body["detail"]


def test_detect__raw_body(client: httpx.Client) -> None:
    response = post(client)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    DetectSchema.model_validate(body, strict=True)
    assert body["id"] == response.headers["x-request-id"]
    assert body["model"] == {"name": "boxes", "version": "1", "task": "detect"}
    assert body["image"] == {"width": WIDTH, "height": HEIGHT}
    assert body["detections"] == [
        {"label": "person", "class_id": 0, "score": 0.9, "box": [10.0, 20.0, 40.0, 50.0]}
    ]
    assert set(body["timings_ms"]) == {"decode", "queue", "infer", "postprocess", "total"}
    assert body["batch"]["size"] >= 1


def test_detect__form_json_and_raw_give_the_same(client: httpx.Client) -> None:
    data = png(picture(7, 8, 9))
    raw = post(client, data, score_threshold="0.2")
    form = client.post("/detect", files={"image": ("a.png", data)}, data={"score_threshold": "0.2"})
    document = {"image": {"base64": base64.b64encode(data).decode()}, "score_threshold": 0.2}
    as_json = client.post("/detect", json=document)
    answers = [response.json()["detections"] for response in (raw, form, as_json)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0]["box"] == [7.0, 8.0, 16.0, 17.0]


def test_detect__together_each_gets_its_own_answer(client: httpx.Client) -> None:
    def corner(number: int) -> list[float]:
        x, y = number % 40, number // 40
        return post(client, png(picture(x, y, 5))).json()["detections"][0]["box"][:2]

    with ThreadPoolExecutor(16) as threads:
        corners = list(threads.map(corner, range(200)))
    assert corners == [[number % 40, number // 40] for number in range(200)]


@pytest.mark.parametrize(
    ("accept", "magic"), [("image/png", b"\x89PNG"), ("image/jpeg", b"\xff\xd8\xff")]
)
def test_detect__drawn(client: httpx.Client, accept: str, magic: bytes) -> None:
    response = client.post(
        "/detect",
        content=png(picture()),
        headers={"Content-Type": "image/png", "Accept": accept},
    )
    assert response.headers["content-type"] == accept
    assert response.content.startswith(magic)
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(drawn.astype(int) - picture()).max() > 60, "nothing is drawn"


def test_detect__threshold_and_class_filter(client: httpx.Client) -> None:
    assert post(client, score_threshold="0.95").json()["detections"] == []
    assert post(client, classes="car").json()["detections"] == []
    assert len(post(client, classes="Person,2").json()["detections"]) == 1


def test_detect__named_model_and_v1_prefix(client: httpx.Client) -> None:
    assert post(client, model="other").json()["model"]["name"] == "other"
    response = client.post(
        "/v1/detect", content=png(picture()), headers={"Content-Type": "image/png"}
    )
    assert response.status_code == 200


def test_detect__request_id_of_the_client_comes_back(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/png", "X-Request-ID": "mine-1"}
    response = client.post("/detect", content=png(picture()), headers=headers)
    assert response.headers["x-request-id"] == response.json()["id"] == "mine-1"


def test_detect__unusable_request_id_is_replaced(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/png", "X-Request-ID": "a b<script>"}
    response = client.post("/detect", content=png(picture()), headers=headers)
    assert response.headers["x-request-id"].startswith("req_")


def test_refused__not_an_image(client: httpx.Client) -> None:
    assert_problem(post(client, b"hello, this is text"), 400, "undecodable-image")


def test_refused__truncated_jpeg(client: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
    assert_problem(post(client, jpeg[: len(jpeg) // 2]), 400, "undecodable-image")


def test_refused__zero_bytes(client: httpx.Client) -> None:
    response = client.post("/detect", content=b"", headers={"Content-Type": "image/png"})
    assert_problem(response, 400, "invalid-request", "no body")
    assert_problem(
        client.post("/detect", files={"image": ("a.png", b"")}), 400, "undecodable-image"
    )


def test_refused__too_many_pixels(client: httpx.Client) -> None:
    blank = np.zeros((1001, 1000), np.uint8)
    response = post(client, cv2.imencode(".png", blank)[1].tobytes())
    assert_problem(response, 413, "image-too-large")
    assert response.json()["limits"]["max_image_pixels"] == 1_000_000


def test_refused__too_many_bytes_announced_and_streamed(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/png"}
    announced = client.post("/detect", content=b"x" * (MAX_BYTES + 1), headers=headers)
    assert_problem(announced, 413, "image-too-large")
    streamed = client.post("/detect", content=iter([b"x" * MAX_BYTES, b"x"]), headers=headers)
    assert_problem(streamed, 413, "image-too-large")
    assert streamed.json()["limits"] == {"max_image_bytes": MAX_BYTES}


def test_refused__content_type(client: httpx.Client) -> None:
    response = client.post("/detect", content=b"x", headers={"Content-Type": "text/plain"})
    assert_problem(response, 415, "unsupported-media-type", "text/plain", "image/jpeg")


def test_refused__two_images(client: httpx.Client) -> None:
    files = [("image", ("a.png", png(picture()))), ("image", ("b.png", png(picture())))]
    assert_problem(client.post("/detect", files=files), 400, "invalid-request", "several pictures")


def test_refused__unknown_option_names_the_nearest(client: httpx.Client) -> None:
    response = post(client, score_treshold="0.5")
    assert_problem(response, 422, "invalid-option", "did you mean 'score_threshold'")
    assert response.json()["errors"][0]["pointer"] == "/score_treshold"


@pytest.mark.parametrize("value", ["1.01", "-1", "nan", "x"])
def test_refused__threshold_out_of_range(client: httpx.Client, value: str) -> None:
    assert_problem(post(client, score_threshold=value), 422, "invalid-option", "score_threshold")


def test_refused__unknown_model_lists_those_there_are(client: httpx.Client) -> None:
    assert_problem(post(client, model="bokses"), 404, "unknown-model", "boxes", "other")


def test_refused__model_that_could_not_be_loaded(client: httpx.Client) -> None:
    assert_problem(post(client, model="broken"), 503, "model-not-ready", "sha256")


def test_refused__unknown_class_names_the_nearest(client: httpx.Client) -> None:
    assert_problem(post(client, classes="persn"), 422, "invalid-option", "did you mean 'person'")


@pytest.mark.parametrize("text", ["9" * 5_000, "\ud800", "x" * 10_000])
def test_refused__text_that_no_class_or_model_could_be(client: httpx.Client, text: str) -> None:
    image = {"base64": base64.b64encode(png(picture())).decode()}
    for option in ("classes", "model"):
        body = json.dumps({"image": image, option: text}).encode()
        response = client.post(
            "/detect", content=body, headers={"Content-Type": "application/json"}
        )
        assert response.status_code in (400, 404, 422), response.text
        assert len(response.content) < 40_000


def test_refused__no_acceptable_format(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/png", "Accept": "text/html"}
    response = client.post("/detect", content=png(picture()), headers=headers)
    assert_problem(response, 406, "not-acceptable", "application/json")


def test_refused__unknown_path_and_method(client: httpx.Client) -> None:
    assert_problem(client.get("/nowhere"), 404, "not-found", "/docs")
    response = client.get("/detect")
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_models__lists_states_and_classes(client: httpx.Client) -> None:
    listed = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert set(listed) == {"boxes", "other", "broken"}
    assert listed["boxes"]["default"] is True
    assert listed["boxes"]["classes"] == list(CLASSES)
    assert listed["boxes"]["input_size"] == {"width": WIDTH, "height": HEIGHT}
    assert listed["broken"]["state"] == "failed"
    assert "sha256" in listed["broken"]["problem"]


def test_health__alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["models"] == {"boxes": "ready", "other": "ready", "broken": "failed"}


def test_problems__every_code_is_explained(client: httpx.Client) -> None:
    for code in all_problems():
        body = client.get(f"/problems/{code}").json()
        assert body["code"] == code
        assert body["meaning"]


def test_problems__unknown_code_is_a_problem_itself(client: httpx.Client) -> None:
    refused = client.get("/problems/request-refused")
    assert refused.headers["content-type"] == "application/problem+json"
    body = refused.json()
    assert (refused.status_code, body["status"], body["code"]) == (404, 404, "not-found")
    assert body["instance"] == "/problems/request-refused"
    assert body["request_id"] == refused.headers["x-request-id"]
    listed = body["detail"].partition("there are: ")[2].rstrip(".").split(", ")
    assert listed == sorted(all_problems())


def test_problem_codes__are_these() -> None:
    """Clients tell errors apart by them: none may change by accident."""
    assert {code: HTTP_STATUS.get(kind) for code, kind in all_problems().items()} == {
        "invalid-request": 400,
        "undecodable-image": 400,
        "unauthenticated": 401,
        "forbidden": 403,
        "rate-limited": 429,
        "too-many-images": 413,
        "image-too-large": 413,
        "unsupported-media-type": 415,
        "not-acceptable": 406,
        "invalid-option": 422,
        "unknown-model": 404,
        "model-not-loadable": 409,
        "answer-too-large": 413,
        "overloaded": None,
        "request-timeout": 408,
        "deadline-exceeded": 504,
        "model-not-ready": None,
        "shutting-down": None,
        "inference-failed": 500,
    }
    assert issubclass(errors.Overloaded, errors.ServiceUnavailable)


def test_limits__are_those_that_refuse(client: httpx.Client) -> None:
    limits = client.get("/limits").json()
    assert limits == {
        "max_image_bytes": MAX_BYTES,
        "max_image_pixels": 1_000_000,
        "max_image_side": 65_535,
        "max_images_per_request": 32,
        "max_batch_bytes": 32 * MAX_BYTES,
        "max_images_under_way": 128,
        "max_timeout_ms": 30_000,
        "image_formats": ["jpeg", "png", "webp", "gif", "tiff", "bmp"],
    }
    refused = post(client, bytes(MAX_BYTES + 1))
    assert_problem(refused, 413, "image-too-large")
    assert limits["max_image_bytes"] in refused.json()["limits"].values()


def test_detect__says_where_the_time_went_in_a_header_too(client: httpx.Client) -> None:
    response = post(client)
    timings = response.json()["timings_ms"]
    parts = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert list(parts) == list(timings)
    for name, value in timings.items():
        assert float(parts[name]) == pytest.approx(value, abs=0.01)


def test_openapi__names_every_option_and_body(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/detect"]["post"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert names == {
        "model",
        "score_threshold",
        "iou_threshold",
        "max_detections",
        "classes",
        "class_agnostic_nms",
        "mask_format",
        "timeout_ms",
        "priority",
    }
    assert set(operation["requestBody"]["content"]) == {
        "image/*",
        "multipart/form-data",
        "application/json",
    }
    assert not any(path.startswith("/v1") for path in document["paths"])


def test_docs__need_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text


def test_server__failed_inference_is_a_problem_and_the_next_request_works(
    tmp_path: Path,
) -> None:
    def poison(images: NDArray[np.uint8]) -> None:
        if images[0, 0, 0, 0] == 13:
            raise RuntimeError("engine says no")

    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    registry = ModelRegistry(
        ModelRepository(tmp_path), lambda _: FakeRuntime(fault=poison), max_waiting=4
    )
    registry.open([])
    limits = DetectorLimits(ImageLimits(MAX_BYTES, 10**6), 4, 10.0)
    with running_server(
        create_app(Detector(registry, CallThreads(1, "worker"), limits), max_buffered_bytes=10**8)
    ) as client:
        response = post(client, png(picture(13)))
        assert_problem(response, 500, "inference-failed")
        assert "engine says no" not in response.text, "causes are for the log"
        assert post(client, png(picture(14))).status_code == 200


def test_server__client_that_hangs_up_is_no_event(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    address = (client.base_url.host, client.base_url.port)
    for _ in range(3):
        with socket.create_connection(address) as connection:
            connection.sendall(
                b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
                b"Content-Length: 1000\r\n\r\nhalf"
            )
    assert post(client).status_code == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_server__body_that_does_not_arrive_in_time(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    settings = Settings(model_repository=tmp_path, runtime="fake")
    app = create_app(build_detector(settings), max_buffered_bytes=10**8, body_timeout_s=0.2)
    with running_server(app) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(
                b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
                b"Content-Length: 1000\r\n\r\nhalf"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_server__more_uploads_than_the_memory_has_room_for(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    detector = build_detector(Settings(model_repository=tmp_path, runtime="fake"))
    data = png(picture())
    head = (
        "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode()
    with running_server(create_app(detector, max_buffered_bytes=4 * len(data))) as client:
        address = (client.base_url.host, client.base_url.port)
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(socket.create_connection(address)) for _ in range(2)]
            for connection in waiting:
                connection.sendall(head + data[:-1])
            response = _refused_within(client, data)
            assert_problem(response, 503, "overloaded", "uploads")
            shed = 'rtmdet_requests_shed_total{model="",reason="uploads"} 1.0'
            assert shed in client.get("/metrics").text
            # Half of it is for the others.
            there = httpx.HTTPTransport(local_address="127.0.0.2")
            with httpx.Client(base_url=client.base_url, transport=there) as other:
                assert post(other, data).status_code == 200
            for connection in waiting:
                connection.sendall(data[-1:])
                assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert post(client, data).status_code == 200


def _refused_within(client: httpx.Client, data: bytes) -> httpx.Response:
    """The first refusal; the others' bytes may still be on their way."""
    for _ in range(100):
        response = post(client, data)
        if response.status_code != 200:
            return response
    return response


def test_server__clients_take_turns(tmp_path: Path) -> None:
    entered, proceed = threading.Event(), threading.Event()
    inferred: list[int] = []

    def note(images: NDArray[np.uint8]) -> None:
        inferred.append(int(images[0, 0, 0, 0]))
        entered.set()
        assert proceed.wait(10)

    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    runtime = FakeRuntime(max_batch_size=1)
    registry = ModelRegistry(ModelRepository(tmp_path), lambda _: runtime, max_waiting=64)
    registry.open([])
    runtime.fault = note
    limits = DetectorLimits(ImageLimits(MAX_BYTES, 10**6), 64, 30.0)
    detector = Detector(registry, CallThreads(2, "worker"), limits)

    def wait_for(depth: int) -> None:
        # Decoded, too: what is not is passed over.
        while served.batcher.num_waiting < depth or not all_ready(served.batcher):
            time.sleep(0.001)

    served = registry.resolve("boxes")
    with (
        running_server(create_app(detector, max_buffered_bytes=10**8)) as greedy,
        httpx.Client(
            base_url=greedy.base_url, transport=httpx.HTTPTransport(local_address="127.0.0.2")
        ) as modest,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = [threads.submit(post, greedy, png(picture(1)))]
        assert entered.wait(10)
        for depth in range(1, 6):
            answers.append(threads.submit(post, greedy, png(picture(1))))
            wait_for(depth)
        answers.append(threads.submit(post, modest, png(picture(2))))
        wait_for(6)
        proceed.set()
        assert {each.result().status_code for each in answers} == {200}
    # One of the greedy client's ran already; the modest one's is next or follows the next.
    assert 2 in inferred[:3]


def test_server__abandoned_requests_are_not_inferred(tmp_path: Path) -> None:
    entered, proceed = threading.Event(), threading.Event()

    def hold(_: NDArray[np.uint8]) -> None:
        entered.set()
        assert proceed.wait(10)

    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    runtime = FakeRuntime(max_batch_size=1)
    registry = ModelRegistry(ModelRepository(tmp_path), lambda _: runtime, max_waiting=64)
    registry.open([])
    runtime.fault = hold
    runtime.batch_sizes.clear()
    limits = DetectorLimits(ImageLimits(MAX_BYTES, 10**6), 64, 30.0)
    detector = Detector(registry, CallThreads(2, "worker"), limits)
    data = png(picture())
    message = (
        "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data
    with (
        running_server(create_app(detector, max_buffered_bytes=10**8)) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        first = threads.submit(post, client, data)
        assert entered.wait(10)
        address = (client.base_url.host, client.base_url.port)
        for _ in range(8):
            with socket.create_connection(address) as connection:
                connection.sendall(message)
        # Answered by the same event loop after it has seen the connections end.
        for _ in range(20):
            client.get("/livez")
        proceed.set()
        assert first.result().status_code == 200
        assert post(client, data).status_code == 200
    assert len(runtime.batch_sizes) == 2


def test_server__an_engine_that_hangs_is_reported_and_replaced(tmp_path: Path) -> None:
    proceed, opened = threading.Event(), threading.Event()
    first, second = FakeRuntime(), FakeRuntime()
    runtimes = iter([first, second])

    def open_runtime(_: RepositoryModel) -> FakeRuntime:
        runtime = next(runtimes)
        assert runtime is first or opened.wait(10)
        return runtime

    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    registry = ModelRegistry(ModelRepository(tmp_path), open_runtime, max_waiting=4, hang_s=0.05)
    registry.open([])
    first.fault = lambda _: proceed.wait(30)
    limits = DetectorLimits(ImageLimits(MAX_BYTES, 10**6), 4, 10.0)
    with running_server(
        create_app(Detector(registry, CallThreads(1, "worker"), limits), max_buffered_bytes=10**8)
    ) as client:
        assert_problem(post(client), 503, "model-not-ready", "try again")
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["models"] == {"boxes": "recovering"}
        assert "hung" in client.get("/models").json()["models"][0]["problem"]
        assert_problem(post(client), 503, "model-not-ready", "being replaced")
        opened.set()
        while client.get("/readyz").status_code == 503:
            pass
        assert post(client).status_code == 200
    proceed.set()


def test_server__bug_of_ours_is_a_problem_with_its_id_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    detector = build_detector(Settings(model_repository=tmp_path, runtime="fake"))
    monkeypatch.setattr(detector, "detect", broken)
    monkeypatch.setattr(detector.registry, "catalogue", broken)
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        # The one is called at once, the other by the framework; both on one connection.
        answers = [post(client), client.get("/models")]
    for response in answers:
        assert_problem(response, 500, "internal-server-error")
        assert "a bug" not in response.text
    logged = [record.message for record in caplog.records if record.levelname == "ERROR"]
    ids = [response.headers["x-request-id"] for response in answers]
    assert [f"request {each} failed" for each in ids] == logged


def test_server__slow_engine_ends_at_the_requests_deadline(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes", input_size=(HEIGHT, WIDTH))
    registry = ModelRegistry(
        ModelRepository(tmp_path), lambda _: FakeRuntime(seconds_per_call=0.5), max_waiting=4
    )
    registry.open([])
    limits = DetectorLimits(ImageLimits(MAX_BYTES, 10**6), 4, 10.0)
    with running_server(
        create_app(Detector(registry, CallThreads(1, "worker"), limits), max_buffered_bytes=10**8)
    ) as client:
        response = post(client, timeout_ms="50")
        assert_problem(response, 504, "deadline-exceeded", "timeout_ms")
        assert json.loads(post(client).content)["detections"]


def test_answer__is_given_up_at_the_deadline_while_it_is_written() -> None:
    """Hundreds of masks of a large picture as PNG took minutes."""
    found = [Detection("a", 0, 0.5, (0.0, 0.0, 1.0, 1.0))] * 2
    timings = Timings(0.0, 0.0, 0.0, 0.0, 0.0)
    result = DetectionResult(ModelIdentity("boxes", "1", "detect"), 8, 8, found, timings, 1)

    def no_picture() -> DecodedImage:
        raise AssertionError

    in_time = _Answer("application/json", DetectOptions(), "req_1", 30.0)
    assert b'"detections"' in in_time(result, no_picture)
    late = _Answer("application/json", DetectOptions(), "req_1", 0.0)
    with pytest.raises(DeadlineExceeded):
        late(result, no_picture)
