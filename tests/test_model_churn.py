"""Models loaded, replaced and unloaded at random, while requests for random models come."""

import asyncio
import gc
import os
import random
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.model_churn import churn
from model.repository import ModelRepository, RepositoryModel
from service.codecs.images import ImageLimits
from service.detector import Detector, DetectorLimits
from service.errors import UnknownModel
from service.http_api.app import create_app
from service.registry import ModelRegistry
from service.runtime.base import Outputs
from service.runtime.fake import FakeRuntime
from service.runtime.openvino_session import OpenVINOSession
from service.scheduler.call_threads import CallThreads
from tests.model_versions import add_version
from tests.repositories import write_model
from tests.servers import running_server
from tests.serving_process import wait_until
from tests.shipped_models import REPOSITORY, stored

SEED = int(os.environ.get("CHURN_SEED", "0"))
SIDE = 64
NAMES = ("alpha", "beta", "gamma")
NUM_VERSIONS = 3
NUM_CHANGES = 100
NUM_CLIENTS = 6


def score_of(name: str, version: int) -> float:
    """What only this version of this model answers."""
    return 0.5 + 0.1 * NAMES.index(name) + 0.01 * version


class Signed(FakeRuntime):
    """Gives its own score, and fails where it is asked after it was closed."""

    def __init__(self, source: RepositoryModel) -> None:
        super().__init__(seconds_per_call=0.001)
        self._score = score_of(source.name, source.version)
        self._is_closed = False

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        outputs = dict(super().infer(images))
        assert not self._is_closed, "asked after it was closed"
        outputs["scores"] = np.full_like(outputs["scores"], self._score)
        return outputs

    def close(self) -> None:
        assert not self._is_closed, "closed twice"
        self._is_closed = True


@dataclass
class Known:
    """What whoever changes the models knows of one: what may be served, and when it may be away."""

    versions: list[tuple[float, frozenset[int]]] = field(default_factory=list)

    def may_be(self, *versions: int) -> None:
        """From now on these may answer; 0 stands for a refusal."""
        self.versions.append((time.monotonic(), frozenset(versions)))

    def between(self, began_s: float, ended_s: float) -> set[int]:
        """All that may have answered at some time of an interval."""
        starts = [*(start for start, _ in self.versions), float("inf")]
        return {
            version
            for (start, versions), end in zip(self.versions, starts[1:], strict=True)
            if start <= ended_s and end >= began_s
            for version in versions
        }


@dataclass(frozen=True)
class Reply:
    """What a client got for a picture whose box begins at `x`."""

    name: str
    x: int
    began_s: float
    ended_s: float
    response: httpx.Response


@contextmanager
def serving(repository: Path) -> Iterator[httpx.Client]:
    for name in NAMES:
        write_model(repository, name, input_size=(SIDE, SIDE))
        for version in range(2, NUM_VERSIONS + 1):
            add_version(repository, name, version)
    registry = ModelRegistry(ModelRepository(repository), Signed, max_waiting=64)
    registry.open([])
    limits = DetectorLimits(ImageLimits(10**6, 10**6), 64, 30.0)
    detector = Detector(registry, CallThreads(2, "worker"), limits)
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        yield client


def test_models__changed_at_random_never_answer_for_each_other(tmp_path: Path) -> None:
    known = {name: Known() for name in NAMES}
    for each in known.values():
        each.may_be(NUM_VERSIONS)
    stop = threading.Event()
    with serving(tmp_path) as client, ThreadPoolExecutor(NUM_CLIENTS + len(NAMES)) as threads:
        asking = [threads.submit(ask, client, stop, seed) for seed in range(NUM_CLIENTS)]
        changing = [threads.submit(change, client, name, known[name]) for name in NAMES]
        try:
            for each in changing:
                each.result()
        finally:
            stop.set()
        replies = [reply for each in asking for reply in each.result()]
    statuses = Counter(reply.response.status_code for reply in replies)
    assert set(statuses) == {200, 503}, statuses
    # Otherwise nothing was tried.
    assert min(statuses.values()) > 20, statuses
    for reply in replies:
        check(reply, known[reply.name].between(reply.began_s, reply.ended_s))


def change(client: httpx.Client, name: str, known: Known) -> None:
    """Load, replace and unload one model, and say what that allows to be answered."""
    chance = random.Random(f"{SEED}:{name}")
    served = NUM_VERSIONS
    with httpx.Client(base_url=client.base_url, timeout=30) as own:
        for _ in range(NUM_CHANGES):
            if chance.random() < 0.3:
                known.may_be(served, 0)
                assert own.post(f"/models/{name}/unload").status_code == 200
                served = 0
            else:
                version = chance.randint(1, NUM_VERSIONS)
                known.may_be(served, version)
                response = own.post(f"/models/{name}/load", params={"version": version})
                assert response.status_code == 200, response.text
                assert response.json()["version"] == str(version)
                served = version
            known.may_be(served)


def ask(client: httpx.Client, stop: threading.Event, seed: int) -> list[Reply]:
    """Ask random models until told to stop."""
    chance = random.Random(f"{SEED}:client {seed}")
    replies: list[Reply] = []
    with httpx.Client(base_url=client.base_url, timeout=30) as own:
        while not stop.is_set():
            name, x = chance.choice(NAMES), chance.randrange(30)
            picture = np.zeros((SIDE, SIDE, 3), np.uint8)
            picture[0, 0] = x, 3, 9
            data = cv2.imencode(".png", picture)[1].tobytes()
            began_s = time.monotonic()
            response = own.post(
                "/detect",
                content=data,
                headers={"Content-Type": "image/png"},
                params={"model": name, "score_threshold": "0.1"},
            )
            replies.append(Reply(name, x, began_s, time.monotonic(), response))
    return replies


def check(reply: Reply, allowed: set[int]) -> None:
    body = reply.response.json()
    if reply.response.status_code == 503:
        assert 0 in allowed, f"{reply.name} was there all the time: {body}"
        assert body["code"] == "model-not-ready", body
        return
    version = int(body["model"]["version"])
    assert body["model"]["name"] == reply.name
    assert version in allowed, f"{reply.name} {version} was not served then, but {allowed}"
    (found,) = body["detections"]
    assert found["score"] == pytest.approx(score_of(reply.name, version), abs=1e-4)
    assert found["box"][0] == reply.x


def test_models__names_that_do_not_exist_leave_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        for index in range(50):
            assert client.post(f"/models/nobody{index}/load").status_code == 404
            assert client.post(f"/models/nobody{index}/unload").status_code == 404
        listed = client.get("/models").json()["models"]
        assert [model["name"] for model in listed] == list(NAMES)


def test_registry__names_of_strangers_take_no_memory(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    registry = ModelRegistry(ModelRepository(tmp_path), Signed, max_waiting=1)

    async def ask_for(first: int, last: int) -> None:
        for index in range(first, last):
            for change in (registry.load, registry.unload):
                with pytest.raises(UnknownModel):
                    await change(f"{index:05000}")

    async def growth() -> int:
        await ask_for(0, 20)
        tracemalloc.start()
        try:
            await ask_for(20, 220)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert asyncio.run(growth()) < 100_000


def test_openvino__closed_its_threads_are_used_again_while_something_still_refers_to_it() -> None:
    """As a model does that was unloaded, until circles of references are collected."""

    def num_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    source = stored("rtmdet-nano-shapes")

    def open_session() -> OpenVINOSession:
        return OpenVINOSession(
            source.graph_path,
            input_size=source.manifest.input_size,
            precision="f32",
            num_threads=3,
        )

    # The plugin keeps the threads of those that were open at once, and gives them to the next.
    kept = [open_session(), open_session()]
    kept[1].close()
    with_two = num_threads()
    for _ in range(4):
        kept.append(open_session())
        kept[-1].close()
    wait_until(lambda: num_threads() <= with_two)


def test_server__keeps_nothing_of_models_that_went() -> None:
    report = churn(num_cycles=200)
    assert report.faults == []
    assert report.answers["200"] > 600


@pytest.mark.slow
def test_server__keeps_nothing_of_compiled_models_that_went() -> None:
    """200 cycles are `python -m benchmarks.model_churn --cycles 200 --runtime openvino`."""
    assert churn(num_cycles=12, runtime="openvino", repository=REPOSITORY).faults == []
