"""The runtime of torch on a GPU: captured graphs are the module itself, whoever calls them.

pytest -m gpu tests/test_torch_runtime_gpu.py
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from model.graph import ServingGraph
from service.runtime.base import Outputs
from service.runtime.choice import choose, look
from service.runtime.cuda_graphs import CudaGraphs
from service.runtime.torch_cuda import TorchSession
from tests.shipped_models import (
    MODELS,
    assert_found_again,
    assert_same_detections,
    detections,
    inputs_of,
    stored,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def on_gpu(name: str, **options: Any) -> TorchSession:
    return TorchSession(stored(name).graph_path, device="cuda", **options)


@cache
def on_processor(name: str) -> Outputs:
    """What the processor finds in the example pictures, in float32."""
    session = TorchSession(stored(name).graph_path, device="cpu", max_batch_size=4)
    return session.infer(inputs_of(name).pixels)


@pytest.mark.parametrize("name", MODELS)
def test_gpu__float32_finds_what_the_processor_finds(name: str):
    inputs = inputs_of(name)
    session = on_gpu(name, precision="f32")
    ours = session.infer(inputs.pixels)
    theirs = on_processor(name)

    assert "CUDA graphs for batches of 1, 2, 4, 8, 16" in session.reason
    # Sums are taken in another order; TF32 would be off by more than a thousand times this.
    np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=0, atol=1e-4)
    for row, geometry in enumerate(inputs.geometries):
        assert_same_detections(
            detections(name, ours, row, geometry),
            detections(name, theirs, row, geometry),
            score=1e-4,
            box=0.1,
            mask=10,
        )


@pytest.mark.parametrize("name", MODELS)
def test_gpu__auto_is_float16_and_finds_the_same_objects(name: str):
    inputs = inputs_of(name)
    session = on_gpu(name)
    ours = session.infer(inputs.pixels)

    assert session.precision == "f16"
    assert "candidates of the trial picture as in f32" in session.reason
    assert_found_again(name, ours, on_processor(name), score=0.02)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9, 16])
def test_gpu__replay_is_the_module_itself(size: int):
    session = on_gpu(MODELS[1], precision="f32")
    pixels = np.random.default_rng(size).integers(0, 256, (size, 448, 448, 3), np.uint8)
    replayed = session.infer(pixels)
    engine = session._engine
    assert isinstance(engine, CudaGraphs)
    with torch.inference_mode():
        itself = engine._module(torch.from_numpy(pixels).cuda())

    np.testing.assert_allclose(
        replayed["scores"], itself["scores"].cpu().numpy(), rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(
        replayed["mask_features"], itself["mask_features"].cpu().numpy(), rtol=0, atol=1e-2
    )


def test_gpu__row_of_a_padded_batch_is_the_same_picture_alone():
    session, pixels = on_gpu(MODELS[0], precision="f32"), inputs_of(MODELS[0]).pixels
    session.infer(np.full((16, *pixels.shape[1:]), 255, np.uint8))
    together = session.infer(pixels)
    for row in range(len(pixels)):
        alone = session.infer(pixels[row : row + 1])
        np.testing.assert_allclose(together["scores"][row], alone["scores"][0], rtol=0, atol=1e-4)


def test_gpu__outputs_are_the_callers():
    session, pixels = on_gpu(MODELS[0]), inputs_of(MODELS[0]).pixels
    first = session.infer(pixels[:1])
    kept = {name: values.copy() for name, values in first.items()}
    for _ in range(4):
        session.infer(np.zeros_like(pixels[:1]))

    for name, values in first.items():
        np.testing.assert_array_equal(values, kept[name])


def test_gpu__called_from_two_threads_gives_each_its_own():
    session = on_gpu(MODELS[0])
    random = np.random.default_rng(0).integers(0, 256, (16, 448, 448, 3), np.uint8)
    batches = {size: random[:size] for size in (1, 2, 3, 7, 16)}
    expected = {size: session.infer(batch)["scores"] for size, batch in batches.items()}
    assert session.concurrency == 2
    together = threading.Barrier(2)

    def calls(seed: int) -> None:
        together.wait(10)
        for size in np.random.default_rng(seed).choice(list(batches), 100):
            scores = session.infer(batches[size])["scores"]
            np.testing.assert_array_equal(scores, expected[size])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(calls, range(2)))


def test_gpu__memory_does_not_grow_with_calls():
    session = on_gpu(MODELS[1])
    pixels = np.zeros((16, 448, 448, 3), np.uint8)
    for size in range(1, 17):
        session.infer(pixels[:size])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for call in range(1000):
        session.infer(pixels[: call % 16 + 1])
    torch.cuda.synchronize()

    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_gpu__memory_is_given_back() -> None:
    reserved = []
    for _ in range(6):
        session = on_gpu(MODELS[1])
        open_bytes = torch.cuda.memory_reserved()
        session.close()
        del session
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved())

    # What libraries keep for good they take at the first time.
    assert reserved[-1] - reserved[1] < (open_bytes - reserved[1]) / 2


def test_gpu__that_cannot_capture_runs_without_graphs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    forward = ServingGraph.forward

    def waiting(self: ServingGraph, images: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = forward(self, images)
        # A capture does not allow the processor to wait for the GPU.
        outputs["scores"].sum().item()
        return outputs

    monkeypatch.setattr(ServingGraph, "forward", waiting)
    inputs = inputs_of(MODELS[0])
    session = on_gpu(MODELS[0], precision="f32")
    ours = session.infer(inputs.pixels)

    assert "without CUDA graphs: " in session.reason
    assert "CUDA graphs cannot be captured" in caplog.text
    theirs = on_processor(MODELS[0])
    np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=0, atol=1e-4)


def test_gpu__largest_batch_becomes_less_where_memory_is_short(monkeypatch: pytest.MonkeyPatch):
    forward = ServingGraph.forward

    def small(self: ServingGraph, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(ServingGraph, "forward", small)
    session = on_gpu(MODELS[0])

    assert session.max_batch_size == 4
    assert "CUDA graphs for batches of 1, 2, 4" in session.reason
    assert len(session.infer(inputs_of(MODELS[0]).pixels)["scores"]) == 3


def test_gpu__two_models_serve_side_by_side():
    sessions = {name: on_gpu(name) for name in MODELS}
    expected = {
        name: session.infer(inputs_of(name).pixels)["scores"] for name, session in sessions.items()
    }

    def calls(name: str) -> None:
        for _ in range(20):
            scores = sessions[name].infer(inputs_of(name).pixels)["scores"]
            np.testing.assert_array_equal(scores, expected[name])

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(calls, MODELS))


def test_gpu__choice_takes_it():
    choice = choose("auto", look())

    assert choice.name == "torch"
    assert choice.on_gpu
    assert torch.cuda.get_device_name(0) in choice.reason
