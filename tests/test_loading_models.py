"""Models that are loaded, replaced and unloaded while requests come."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from model.repository import ModelRepository, RepositoryModel
from service.codecs.images import ImageLimits
from service.detector import Detector, DetectorLimits
from service.http_api.app import create_app
from service.registry import ModelRegistry
from service.runtime.fake import FakeRuntime
from service.scheduler.call_threads import CallThreads
from tests.model_versions import add_version
from tests.repositories import write_model
from tests.servers import running_server


@dataclass
class Opening:
    """Opens fake runtimes; may be told to fail, or to wait."""

    fails: bool = False
    raises: Exception | None = None
    outputs: tuple[str, ...] = ("boxes", "scores", "labels")
    begun: threading.Event = field(default_factory=threading.Event)
    proceed: threading.Event = field(default_factory=threading.Event)
    closed: Counter[str] = field(default_factory=Counter)

    def __call__(self, source: RepositoryModel) -> FakeRuntime:
        self.begun.set()
        assert self.proceed.wait(30)
        if self.fails:
            raise RuntimeError("no memory")
        if self.raises is not None:
            raise self.raises
        outputs = self.outputs
        closed, version = self.closed, f"{source.name}/{source.version}"

        class Runtime(FakeRuntime):
            def close(self) -> None:
                closed[version] += 1

        runtime = Runtime(seconds_per_call=0.001)
        runtime.output_names = outputs
        return runtime


@dataclass(frozen=True)
class Served:
    client: httpx.Client
    repository: Path
    opening: Opening

    def post(self, **options: str) -> httpx.Response:
        return self.client.post(
            "/detect", content=PICTURE, headers={"Content-Type": "image/png"}, params=options
        )

    def states(self) -> dict[str, str]:
        listed = self.client.get("/models").json()["models"]
        return {model["name"]: model["state"] for model in listed}


PICTURE = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    write_model(tmp_path, "boxes")
    write_model(tmp_path, "other")
    opening = Opening()
    opening.proceed.set()
    registry = ModelRegistry(ModelRepository(tmp_path), opening, max_waiting=64)
    registry.open(["boxes"])
    limits = DetectorLimits(ImageLimits(10**6, 10**6), 64, 30.0)
    detector = Detector(registry, CallThreads(2, "worker"), limits)
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        yield Served(client, tmp_path, opening)


def test_load__a_model_of_the_repository(served: Served) -> None:
    assert served.states() == {"boxes": "ready", "other": "unloaded"}
    assert served.post(model="other").status_code == 404
    response = served.client.post("/models/other/load")
    assert response.status_code == 200
    assert response.json()["state"] == "ready"
    assert served.post(model="other").json()["model"]["name"] == "other"


def test_load__a_swap_under_load_fails_no_request(served: Served) -> None:
    add_version(served.repository, "boxes", 2)
    stop, versions = threading.Event(), list[str]()

    def ask() -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=30) as client:
            while not stop.is_set():
                response = client.post(
                    "/detect", content=PICTURE, headers={"Content-Type": "image/png"}
                )
                assert response.status_code == 200, response.text
                versions.append(response.json()["model"]["version"])

    with ThreadPoolExecutor(6) as threads:
        asking = [threads.submit(ask) for _ in range(6)]
        while len(versions) < 20:
            pass
        swaps = [served.client.post("/models/boxes/load") for _ in range(3)]
        swaps.append(served.client.post("/models/boxes/load", params={"version": "1"}))
        swaps.append(served.client.post("/models/boxes/load"))
        before = len(versions)
        while len(versions) < before + 20:
            pass
        stop.set()
        for each in asking:
            each.result()
    assert [swap.json()["version"] for swap in swaps] == ["2", "2", "2", "1", "2"]
    assert versions[0] == "1"
    assert versions[-1] == "2"
    # All that were replaced are released, once each.
    assert served.opening.closed == {"boxes/1": 2, "boxes/2": 3}


def test_load__the_old_one_answers_until_the_new_one_is_ready(served: Served) -> None:
    add_version(served.repository, "boxes", 2)
    served.opening.begun.clear()
    served.opening.proceed.clear()
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(served.client.post, "/models/boxes/load")
        assert served.opening.begun.wait(10)
        assert served.post().json()["model"]["version"] == "1"
        assert served.states()["boxes"] == "ready"
        served.opening.proceed.set()
        assert loading.result().status_code == 200
    assert served.post().json()["model"]["version"] == "2"


@pytest.mark.parametrize("error", [OSError("disk gone"), MemoryError(), KeyError("layer")])
def test_load__whatever_a_runtime_raises_is_the_models_fault(
    served: Served, error: Exception
) -> None:
    served.opening.raises = error
    response = served.client.post("/models/other/load")
    assert response.status_code == 409
    assert response.json()["code"] == "model-not-loadable"
    assert served.states()["other"] == "failed"
    served.opening.raises = None
    assert served.client.post("/models/other/load").status_code == 200
    assert served.post(model="other").status_code == 200


def test_load__a_runtime_that_is_refused_is_released(served: Served) -> None:
    served.opening.outputs = ("boxes",)
    assert served.client.post("/models/other/load").status_code == 409
    assert served.opening.closed == {"other/1": 1}


def test_load__of_a_new_model_says_that_it_loads(served: Served) -> None:
    served.opening.begun.clear()
    served.opening.proceed.clear()
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(served.client.post, "/models/other/load")
        assert served.opening.begun.wait(10)
        refused = served.post(model="other")
        assert (refused.status_code, refused.json()["code"]) == (503, "model-not-ready")
        assert refused.headers["retry-after"] == "1"
        assert served.states()["other"] == "loading"
        served.opening.proceed.set()
        assert loading.result().status_code == 200


def test_load__goes_on_where_the_caller_does_not_wait(served: Served) -> None:
    served.opening.begun.clear()
    served.opening.proceed.clear()
    with pytest.raises(httpx.ReadTimeout):
        served.client.post("/models/other/load", timeout=0.2)
    assert served.opening.begun.wait(10)
    served.opening.proceed.set()
    while served.states()["other"] != "ready":
        pass


def test_load__one_that_fails_leaves_what_was_served(served: Served) -> None:
    served.opening.fails = True
    for name in ("boxes", "other"):
        response = served.client.post(f"/models/{name}/load")
        assert (response.status_code, response.json()["code"]) == (409, "model-not-loadable")
        assert "no memory" in response.json()["detail"]
    assert served.post().status_code == 200
    assert served.states() == {"boxes": "ready", "other": "failed"}
    served.opening.fails = False
    assert served.client.post("/models/other/load").status_code == 200


@pytest.mark.parametrize("name", ["none", "..", "%2e%2e%2fboxes", "boxes%2f1", "boxes%00"])
def test_load__names_that_are_no_model(served: Served, name: str) -> None:
    response = served.client.post(f"/models/{name}/load")
    assert response.status_code == 404
    assert "no memory" not in response.text


def test_load__versions_that_are_none(served: Served) -> None:
    response = served.client.post("/models/boxes/load", params={"version": "7"})
    assert response.status_code == 409
    assert "there are: 1" in response.json()["detail"]
    for text in ("0", "-1", "x", "1e3", "²"):
        response = served.client.post("/models/boxes/load", params={"version": text})
        assert response.status_code == 422


@pytest.mark.parametrize("path", ["load", "unload"])
def test_load__a_misspelt_option_does_nothing_else(served: Served, path: str) -> None:
    response = served.client.post(f"/models/boxes/{path}", params={"versoin": "1"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid-option")
    assert "versoin" in response.json()["detail"]
    assert served.opening.closed == {}


def test_unload__takes_it_out_of_service_and_releases_it(served: Served) -> None:
    assert served.client.post("/models/other/load").status_code == 200
    response = served.client.post("/models/boxes/unload")
    assert (response.status_code, response.json()["state"]) == (200, "unloaded")
    assert served.opening.closed == {"boxes/1": 1}
    refused = served.post(model="boxes")
    assert (refused.status_code, refused.json()["code"]) == (503, "model-not-ready")
    assert served.post().json()["model"]["name"] == "other"
    assert 'model="boxes"' not in "".join(
        line for line in served.client.get("/metrics").text.splitlines() if "model_info" in line
    )
    assert served.client.post("/models/boxes/load").status_code == 200
    assert served.post(model="boxes").status_code == 200
    # Who answers requests that name none does not change by what is loaded.
    assert served.post().json()["model"]["name"] == "other"


def test_unload__of_the_last_one_leaves_a_server_that_is_not_ready(served: Served) -> None:
    assert served.client.get("/readyz").status_code == 200
    assert served.client.post("/models/boxes/unload").status_code == 200
    assert served.client.get("/readyz").status_code == 503
    assert served.post().status_code == 503
    assert served.client.post("/models/none/unload").status_code == 404


def test_readyz__asks_for_a_real_inference(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    runtime = FakeRuntime()
    registry = ModelRegistry(ModelRepository(tmp_path), lambda _: runtime, max_waiting=64)
    registry.open([])
    runtime.batch_sizes.clear()
    detector = Detector(
        registry, CallThreads(1, "worker"), DetectorLimits(ImageLimits(10**6, 10**6), 4, 30.0)
    )
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        for _ in range(3):
            assert client.get("/readyz").json() == {
                "status": "ready",
                "models": {"boxes": "ready"},
            }
    assert runtime.batch_sizes == [1]


def test_readyz__a_runtime_that_only_fails_is_not_ready(tmp_path: Path) -> None:
    def fault(_: np.ndarray) -> None:
        raise RuntimeError("no memory")

    write_model(tmp_path, "boxes")
    runtime = FakeRuntime()
    registry = ModelRegistry(ModelRepository(tmp_path), lambda _: runtime, max_waiting=64)
    registry.open([])
    runtime.fault = fault
    detector = Detector(
        registry, CallThreads(1, "worker"), DetectorLimits(ImageLimits(10**6, 10**6), 4, 30.0)
    )
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["models"] == {"boxes": "not answering"}
    assert "failed" in response.json()["problems"]["boxes"]
