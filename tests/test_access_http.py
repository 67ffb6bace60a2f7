"""Who gets through to which route, on a real server: keys, web pages, rate limits."""

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from fastapi import Request

from model.repository import ModelRepository
from service.access.gate import Gate
from service.access.key_file import read_keys, write_keys
from service.access.keys import SCOPES
from service.access.rate_limits import RateLimits, parse_rate_limits
from service.access.watched_keys import WatchedKeys
from service.codecs.images import ImageLimits
from service.detector import Detector, DetectorLimits
from service.http_api.access import charge_images
from service.http_api.app import create_app
from service.http_api.route_needs import UNLISTED, rule_for
from service.registry import ModelRegistry
from service.runtime.fake import FakeRuntime
from service.scheduler.call_threads import CallThreads
from service.settings import Settings
from service.wiring import build_detector
from tests.api_keys import NOW, add_key
from tests.app_routes import all_routes
from tests.held_serving import all_ready
from tests.repositories import write_model
from tests.servers import running_server

SIDE = 64
HIDDEN = "/not-in-the-table"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Served:
    """A running server, and what its gate goes by."""

    client: httpx.Client
    keys_file: Path
    #: One key for each scope, of that name.
    secrets: dict[str, str]
    clock: Clock

    def get(self, path: str, key: str | None = None, method: str = "GET") -> httpx.Response:
        headers = {} if key is None else {"X-API-Key": key}
        return self.client.request(method, path, headers=headers)

    def post_picture(self, headers: dict[str, str]) -> httpx.Response:
        headers = {"Content-Type": "image/png"} | headers
        return self.client.post("/detect", content=picture(), headers=headers)


def picture() -> bytes:
    return cv2.imencode(".png", np.zeros((SIDE, SIDE, 3), np.uint8))[1].tobytes()


def detector_of(folder: Path) -> Detector:
    write_model(folder / "repository", "boxes", input_size=(SIDE, SIDE))
    return build_detector(Settings(model_repository=folder / "repository", runtime="fake"))


@contextmanager
def serving(folder: Path, *, rate_limit: str = "") -> Iterator[Served]:
    """A server with a key for each scope, an expired one, and a route nobody thought of."""
    clock, keys_file = Clock(), folder / "keys.jsonl"
    secrets: dict[str, str] = {scope: add_key(keys_file, scope, [scope]) for scope in SCOPES}
    day = timedelta(days=1)
    secrets["expired"] = add_key(keys_file, "expired", SCOPES, lifetime=-day)
    rates = RateLimits(parse_rate_limits(rate_limit), clock=clock) if rate_limit else None
    gate = Gate(WatchedKeys(keys_file, clock=clock), rates, now=lambda: NOW)
    app = create_app(detector_of(folder), max_buffered_bytes=10**8, gate=gate)

    async def several(request: Request) -> None:
        charge_images(request, int(request.query_params["images"]))

    app.add_api_route(HIDDEN, lambda: "secret", methods=["GET", "POST"], include_in_schema=False)
    app.add_api_route("/detect/several", several, methods=["POST"], include_in_schema=False)
    with running_server(app) as client:
        yield Served(client, keys_file, secrets, clock)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory):
    """The application as it is, without what tests add."""
    return create_app(detector_of(tmp_path_factory.mktemp("plain")), max_buffered_bytes=1)


def assert_problem(response: httpx.Response, status: int, code: str, *says: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == response.headers["x-request-id"]
    for text in says:
        assert text in body["detail"]


def is_refused(response: httpx.Response) -> bool:
    return response.status_code in (401, 403)


# --------------------------------------------------------------------------------------- the table

#: What each route asks for. A new route is added here, and to `service/http_api/route_needs.py`.
NEEDS = {
    "/": "nothing",
    "/docs": "nothing",
    "/livez": "nothing",
    "/readyz": "nothing",
    "/openapi.json": "nothing",
    "/problems/{code}": "nothing",
    "/models": "any-key",
    "/limits": "any-key",
    "/metrics": "any-key",
    "/detect": "detect",
}


def test_table__has_every_route_of_the_application(application) -> None:
    needs = {}
    for _, path in all_routes(application):
        rule = rule_for(path)
        assert rule is not UNLISTED, f"{path} is not in service/http_api/route_needs.py"
        needs[path.removeprefix("/v1")] = rule.need
    assert needs.items() >= NEEDS.items()


@pytest.mark.parametrize(
    ("path", "need"),
    [
        ("/models/boxes/load", "admin"),
        ("/v1/models/boxes/unload", "admin"),
        ("/train", "train"),
        ("/train/7/logs", "train"),
        ("/train/7/artifacts/a\nb", "train"),
        ("/datasets/", "train"),
        ("/detect/anything/below", "detect"),
        ("/v1", "nothing"),
        # Not in the table.
        ("/nowhere", "admin"),
        ("/models/boxes", "admin"),
        ("/models/a/b/load", "admin"),
        ("/models/boxes/load/more", "admin"),
        ("/trainer", "admin"),
        ("/v1detect", "admin"),
        ("/v1/v1/livez", "admin"),
        ("/livez\n", "admin"),
        ("/livez/../metrics", "admin"),
        ("", "nothing"),
    ],
)
def test_table__gives_what_a_path_needs(path: str, need: str) -> None:
    assert rule_for(path).need == need


def expected_refusals(need: str) -> dict[str, int | None]:
    """Status by kind of key; None for what gets through."""
    wrong_scope = 403 if need in SCOPES else None
    if need == "nothing":
        return dict.fromkeys(("none", "wrong", "expired", "other", "right"))
    return {"none": 401, "wrong": 401, "expired": 401, "other": wrong_scope, "right": None}


def test_routes__each_with_each_kind_of_key(served: Served, application) -> None:
    """Of the OpenAPI document and beside it, below /v1 too, and one that the table lacks."""
    routes = all_routes(application)
    assert len(routes) >= 2 * len(NEEDS)
    documented = {
        (method.upper(), path)
        for path, operations in application.openapi()["paths"].items()
        for method in operations
    }
    assert documented <= set(routes)
    for method, template in [*routes, ("GET", HIDDEN), ("POST", HIDDEN)]:
        path = re.sub(r"\{\w+\}", "none", template)
        need = rule_for(path).need
        right = need if need in SCOPES else "train"
        other = next(scope for scope in SCOPES if scope != right)
        keys = {
            "none": None,
            "wrong": "rtmdet_wrong",
            "expired": served.secrets["expired"],
            "other": served.secrets[other],
            "right": served.secrets[right],
        }
        for kind, refusal in expected_refusals(need).items():
            response = served.get(path, keys[kind], method)
            shown = f"{method} {path} with {kind} key: {response.status_code}"
            if refusal is None:
                assert not is_refused(response), shown
                continue
            assert response.status_code == refusal, shown
            if refusal == 401:
                assert response.headers["www-authenticate"] == "Bearer", shown
            if method != "HEAD":
                code = {401: "unauthenticated", 403: "forbidden"}[refusal]
                assert_problem(response, refusal, code, *([need] if refusal == 403 else []))


# ------------------------------------------------------------------------------- how a key is sent


@pytest.mark.parametrize(
    "form",
    [
        {"Authorization": "Bearer {key}"},
        {"authorization": "bearer {key}"},
        {"X-API-Key": "{key}"},
        {"Authorization": "Bearer {key}", "X-API-Key": "{key}"},
        {"Authorization": "Basic dTpw", "X-API-Key": "{key}"},
    ],
)
def test_key__is_taken_from_either_header(served: Served, form: dict[str, str]) -> None:
    key = served.secrets["detect"]
    headers = {name: value.format(key=key) for name, value in form.items()}
    assert served.post_picture(headers).status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        {"Authorization": "{key}"},
        {"Authorization": "Basic {key}"},
        {"Authorization": "Bearer {key}x"},
        {"X-API-Key": "Bearer {key}"},
        {"Authorization": "Bearer {key}", "X-API-Key": "rtmdet_another"},
        {"Api-Key": "{key}"},
        {"Cookie": "X-API-Key={key}"},
    ],
)
def test_key__in_any_other_form_is_none(served: Served, form: dict[str, str]) -> None:
    key = served.secrets["detect"]
    headers = {name: value.format(key=key) for name, value in form.items()}
    response = served.post_picture(headers)
    assert_problem(response, 401, "unauthenticated")
    assert key not in response.text


def test_key__in_the_query_is_none(served: Served) -> None:
    key = served.secrets["detect"]
    assert served.get(f"/models?api_key={key}&X-API-Key={key}").status_code == 401


def test_key__is_in_no_log_and_in_no_answer(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for key in (served.secrets["detect"], served.secrets["expired"], "rtmdet_" + 43 * "x"):
        for path in ("/models", "/detect", HIDDEN, "/nowhere"):
            response = served.get(path, key)
            assert key not in response.text
            assert key not in str(response.headers)
        assert key not in caplog.text


# -------------------------------------------------------------------------------- ways around it


def raw(served: Served, target: str, *, method: str = "POST", headers: str = "") -> tuple[int, str]:
    """Status and answer to a request whose target is sent as it is written here."""
    address = (served.client.base_url.host, served.client.base_url.port)
    head = f"{method} {target} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n{headers}"
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer


ODD_TARGETS = [
    "/detect/",
    "/detect//",
    "//detect",
    "/./detect",
    "/x/../detect",
    "/v1/../detect",
    "/livez/../detect",
    "/livez/..%2fdetect",
    "/v1/v1/detect",
    "/v1//detect",
    "/DETECT",
    "/Detect",
    "/%64etect",
    "/%2564etect",
    "/detect%2F",
    "/%2Fdetect",
    "/detect%00",
    "/detect%0A",
    "/detect%20",
    "/detect;x=/livez",
    "/detect?/livez",
    "/detect?x=1#/livez",
    "/detect%3F",
    "/detect/livez",
    "/problems/../detect",
    "/docs/../detect",
    "http://localhost/detect",
]


@pytest.mark.parametrize("target", ODD_TARGETS)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_path__written_oddly_is_no_way_around(served: Served, target: str, method: str) -> None:
    """Without a key none gets anywhere; with a key of another scope none detects."""
    assert raw(served, target, method=method)[0] in (400, 401)
    key = f"X-API-Key: {served.secrets['train']}\r\n"
    assert raw(served, target, method=method, headers=key)[0] in (400, 403, 404)


def test_path__percent_encoded_is_the_route_that_it_means(served: Served) -> None:
    key = f"X-API-Key: {served.secrets['detect']}\r\n"
    status, answer = raw(served, "/%64etect", headers=key)
    assert (status, "the request has no body" in answer) == (400, True)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
def test_path__other_methods_need_the_same(served: Served, method: str) -> None:
    for path in ("/detect", "/models", "/metrics", HIDDEN):
        assert raw(served, path, method=method)[0] in (400, 401)
    key = f"X-API-Key: {served.secrets['train']}\r\n"
    assert raw(served, "/detect", method=method, headers=key)[0] in (400, 403)


def test_path__unknown_one_is_not_found_with_a_key_and_says_nothing_without(
    served: Served,
) -> None:
    assert_problem(served.get("/nowhere"), 401, "unauthenticated")
    assert_problem(served.get("/nowhere", served.secrets["detect"]), 404, "not-found", "/docs")
    assert_problem(served.get("/nowhere", served.secrets["admin"]), 404, "not-found", "/docs")


def test_path__not_in_the_table_needs_admin(served: Served) -> None:
    for method in ("GET", "POST"):
        response = served.get(HIDDEN, served.secrets["train"], method)
        assert_problem(response, 403, "forbidden", "'admin'", "'train'")
        assert served.get(HIDDEN, served.secrets["admin"], method).json() == "secret"
    assert_problem(served.get(HIDDEN, served.secrets["detect"], "PUT"), 403, "forbidden")


def test_path__slash_at_the_end_leads_on_for_those_who_may(served: Served) -> None:
    response = served.get("/detect/", served.secrets["detect"], "POST")
    assert response.status_code == 307
    assert served.get("/detect/", served.secrets["train"], "POST").status_code == 403


def test_web_socket__needs_a_key_too(served: Served) -> None:
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    assert raw(served, "/detect", method="GET", headers=upgrade)[0] == 401


# ---------------------------------------------------------------------------------- before the body


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("train", 403)])
def test_refused__upload_is_answered_before_its_body_comes(
    served: Served, key: str | None, status: int
) -> None:
    address = (served.client.base_url.host, served.client.base_url.port)
    header = "" if key is None else f"X-API-Key: {served.secrets[key]}\r\n"
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(
            f"POST /detect HTTP/1.1\r\nHost: x\r\n{header}Content-Type: image/png\r\n"
            "Content-Length: 30000000\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        # Not one byte of the body is sent, and none asked for.
        assert connection.recv(1000).startswith(f"HTTP/1.1 {status} ".encode())


def test_refused__is_counted_under_its_route(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.get("/v1/detect", method="POST")
        served.get("/nowhere/1")
        served.get("/nowhere/2", served.secrets["train"])
        text = served.get("/metrics", served.secrets["train"]).text
    counted = {
        (route, code): float(value)
        for route, code, value in re.findall(
            r'rtmdet_requests_total\{code="(\d+)",model="",protocol="http",route="([^"]+)"\} (\S+)',
            text,
        )
    }
    assert counted == {("401", "/detect"): 1, ("401", "other"): 1, ("404", "other"): 1}


# ------------------------------------------------------------------------------ keys that change


def test_keys__are_taken_up_and_away_while_the_server_runs(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        new = add_key(served.keys_file, "new", ["detect"])
        assert served.get("/models", new).status_code == 401, "it looks once a second"
        served.clock.now_s += 1
        assert served.get("/models", new).status_code == 200
        kept = [key for key in read_keys(served.keys_file)[0] if key.name != "new"]
        write_keys(served.keys_file, kept)
        served.clock.now_s += 1
        assert served.get("/models", new).status_code == 401
        served.keys_file.write_text("broken")
        served.clock.now_s += 1
        assert served.get("/models", served.secrets["detect"]).status_code == 200


# ------------------------------------------------------------------------------- web pages, no keys


@contextmanager
def open_server(folder: Path, *, only_this_machine: bool) -> Iterator[httpx.Client]:
    gate = Gate(only_this_machine=only_this_machine)
    app = create_app(detector_of(folder), max_buffered_bytes=10**8, gate=gate)
    with running_server(app) as client:
        yield client


def test_no_keys__names_of_other_machines_are_refused_on_every_route(
    tmp_path: Path, application
) -> None:
    with open_server(tmp_path, only_this_machine=True) as client:
        for method, template in all_routes(application):
            path = re.sub(r"\{\w+\}", "none", template)
            response = client.request(method, path, headers={"Host": "evil.example"})
            assert response.status_code == 403, f"{method} {path}"
        assert_problem(
            client.get("/models", headers={"Host": "evil.example:8000"}),
            403,
            "forbidden",
            "'evil.example:8000'",
            "RTMDET_API_KEYS_FILE",
        )
        port = client.base_url.port
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "localhost"):
            assert client.get("/models", headers={"Host": host}).status_code == 200
        assert client.get("/nowhere").status_code == 404


@pytest.mark.parametrize("only_this_machine", [True, False])
def test_no_keys__pages_of_other_sites_may_only_read(
    tmp_path: Path, only_this_machine: bool
) -> None:
    with open_server(tmp_path, only_this_machine=only_this_machine) as client:
        own = str(client.base_url).rstrip("/")

        def post(origin: str | None) -> httpx.Response:
            headers = {} if origin is None else {"Origin": origin}
            headers["Content-Type"] = "image/png"
            return client.post("/detect", content=picture(), headers=headers)

        for allowed in (None, own):
            assert post(allowed).status_code == 200
        for other in ("http://evil.example", "null", f"{own}0", "http://127.0.0.1"):
            assert_problem(post(other), 403, "forbidden", "another site")
            headers = {"Origin": other}
            assert client.get("/models", headers=headers).status_code == 200
            assert client.head("/livez", headers=headers).status_code == 200
            assert client.options("/detect", headers=headers).status_code == 403
            assert client.post("/nowhere", headers=headers).status_code == 403


def test_no_keys__waived_serves_under_any_name(tmp_path: Path) -> None:
    with open_server(tmp_path, only_this_machine=False) as client:
        assert client.get("/models", headers={"Host": "example.org"}).status_code == 200


def test_keys__make_names_and_pages_of_no_account(served: Served) -> None:
    headers = {
        "Host": "example.org",
        "Origin": "http://page.example",
        "X-API-Key": served.secrets["detect"],
    }
    assert served.post_picture(headers).status_code == 200


# ---------------------------------------------------------------------------------- rate limits


def test_rate_limit__counts_down_refuses_and_allows_again(tmp_path: Path) -> None:
    with serving(tmp_path, rate_limit="3/minute;2/second") as served:
        key = {"X-API-Key": served.secrets["detect"]}
        first, second, third = (served.post_picture(key) for _ in range(3))
        assert [each.status_code for each in (first, second, third)] == [200, 200, 429]
        policy = '"3/minute";q=3;w=60, "2/second";q=2;w=1'
        assert {each.headers["ratelimit-policy"] for each in (first, second, third)} == {policy}
        assert first.headers["ratelimit"] == '"3/minute";r=2;t=60, "2/second";r=1;t=1'
        assert second.headers["ratelimit"] == '"3/minute";r=1;t=60, "2/second";r=0;t=1'
        assert_problem(third, 429, "rate-limited", "2/second")
        assert third.headers["ratelimit"] == second.headers["ratelimit"]
        assert third.headers["retry-after"] == "1"
        assert third.json()["retry_after_ms"] == 1000
        served.clock.now_s += 1
        assert served.post_picture(key).status_code == 200
        refused = served.post_picture(key)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "59"
        served.clock.now_s += 0.75
        assert served.post_picture(key).headers["retry-after"] == "59", "never too early"
        served.clock.now_s += 57.75
        refused = served.post_picture(key)
        assert refused.json()["retry_after_ms"] == 500
        assert refused.headers["retry-after"] == "1"
        served.clock.now_s += 0.5
        assert served.post_picture(key).status_code == 200


def test_rate_limit__is_each_keys_own_and_not_for_other_routes(tmp_path: Path) -> None:
    with serving(tmp_path, rate_limit="1/minute") as served:
        another = add_key(served.keys_file, "another", ["detect"])
        served.clock.now_s += 1
        for secret in (served.secrets["detect"], another):
            assert served.post_picture({"X-API-Key": secret}).status_code == 200
            assert served.post_picture({"X-API-Key": secret}).status_code == 429
        for _ in range(3):
            response = served.get("/models", another)
            assert response.status_code == 200
            assert "ratelimit" not in response.headers


def test_rate_limit__who_is_not_admitted_is_not_counted(tmp_path: Path) -> None:
    with serving(tmp_path, rate_limit="1/minute") as served:
        for key in ("rtmdet_wrong", served.secrets["train"]):
            for _ in range(3):
                response = served.post_picture({"X-API-Key": key})
                assert is_refused(response)
                assert "ratelimit" not in response.headers
        assert served.post_picture({"X-API-Key": served.secrets["detect"]}).status_code == 200


def test_rate_limit__without_keys_is_by_address(tmp_path: Path) -> None:
    gate = Gate(rates=RateLimits(parse_rate_limits("1/minute"), clock=Clock()))
    app = create_app(detector_of(tmp_path), max_buffered_bytes=10**8, gate=gate)
    headers = {"Content-Type": "image/png"}
    with running_server(app) as client:
        statuses = [
            client.post("/detect", content=picture(), headers=headers).status_code for _ in range(2)
        ]
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=client.base_url, transport=transport) as other:
            response = other.post("/detect", content=picture(), headers=headers)
    assert statuses == [200, 429]
    assert response.status_code == 200


def test_rate_limit__request_of_several_pictures_is_charged_for_each(tmp_path: Path) -> None:
    with serving(tmp_path, rate_limit="5/minute") as served:

        def several(num_images: int) -> httpx.Response:
            path = f"/detect/several?images={num_images}"
            return served.get(path, served.secrets["detect"], "POST")

        assert_problem(several(6), 413, "too-many-images", "at most 5")
        assert several(6).json()["limits"] == {"max_images_per_request": 5}
        served.clock.now_s += 60
        assert several(3).headers["ratelimit"] == '"5/minute";r=2;t=60'
        served.clock.now_s += 20
        refused = several(3)
        assert_problem(refused, 429, "rate-limited")
        assert refused.headers["retry-after"] == "40"
        served.clock.now_s += 40
        assert several(3).status_code == 200


# ------------------------------------------------------------------------------------- fair shares


def test_queue__takes_turns_by_key_where_addresses_are_the_same(tmp_path: Path) -> None:
    entered, proceed = threading.Event(), threading.Event()
    inferred: list[int] = []

    def note(images) -> None:
        inferred.append(int(images[0, 0, 0, 0]))
        entered.set()
        assert proceed.wait(10)

    write_model(tmp_path / "repository", "boxes", input_size=(SIDE, SIDE))
    runtime = FakeRuntime(max_batch_size=1)
    repository = ModelRepository(tmp_path / "repository")
    registry = ModelRegistry(repository, lambda _: runtime, max_waiting=64)
    registry.open([])
    runtime.fault = note
    limits = DetectorLimits(ImageLimits(10**6, 10**6), 64, 30.0)
    detector = Detector(registry, CallThreads(2, "worker"), limits)
    keys_file = tmp_path / "keys.jsonl"
    greedy, modest = (add_key(keys_file, name, ["detect"]) for name in ("greedy", "modest"))
    app = create_app(detector, max_buffered_bytes=10**8, gate=Gate(WatchedKeys(keys_file)))

    def marked(mark: int) -> bytes:
        return cv2.imencode(".png", np.full((SIDE, SIDE, 3), mark, np.uint8))[1].tobytes()

    with running_server(app) as client, ThreadPoolExecutor(8) as threads:

        def post(key: str, mark: int) -> int:
            headers = {"Content-Type": "image/png", "X-API-Key": key}
            return client.post("/detect", content=marked(mark), headers=headers).status_code

        answers = [threads.submit(post, greedy, 1)]
        assert entered.wait(10)
        for depth in range(1, 7):
            key, mark = (greedy, 1) if depth < 6 else (modest, 2)
            answers.append(threads.submit(post, key, mark))
            batcher = registry.resolve("boxes").batcher
            while batcher.num_waiting < depth or not all_ready(batcher):
                time.sleep(0.001)
        proceed.set()
        assert {each.result() for each in answers} == {200}
    assert 2 in inferred[:3]


# ------------------------------------------------------------------------------ what is told of it


def test_openapi__declares_both_headers_and_the_scope_of_each_route(served: Served) -> None:
    document = served.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"].items() >= {"type": "http", "scheme": "bearer"}.items()
    assert schemes["apiKey"].items() >= {"type": "apiKey", "in": "header"}.items()
    assert schemes["apiKey"]["name"] == "X-API-Key"
    for path, operations in document["paths"].items():
        need = NEEDS.get(path, rule_for(path).need)
        scopes = [need] if need in SCOPES else []
        security = [] if need == "nothing" else [{"bearer": scopes}, {"apiKey": scopes}]
        for operation in operations.values():
            assert operation["security"] == security, path
            assert ("401" in operation["responses"]) == (need != "nothing")
            assert ("429" in operation["responses"]) == path.startswith("/detect")


def test_docs__page_sends_a_key_and_stores_none(served: Served) -> None:
    page = served.get("/docs").text
    assert '<input id="key" type="password" autocomplete="off"' in page
    assert "localStorage" not in page
    assert "document.cookie" not in page


def test_problems__of_access_are_explained(served: Served) -> None:
    for code in ("unauthenticated", "forbidden", "rate-limited", "too-many-images"):
        assert served.get(f"/problems/{code}").json()["code"] == code
