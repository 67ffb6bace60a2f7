"""The runtime of torch beside the other two, on the shipped models."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from service.runtime.base import Outputs
from service.runtime.batch_buckets import batch_buckets, smallest_bucket
from service.runtime.openvino_session import OpenVINOSession
from service.runtime.torch_cuda import TorchSession
from service.settings import Settings
from service.wiring import build_detector
from tests.conftest import PROJECT
from tests.shipped_models import (
    MODELS,
    REPOSITORY,
    assert_found_again,
    assert_same_detections,
    detections,
    inputs_of,
    stored,
)

#: What rounding may do to the same candidate in float32: of a score, and of a box in pixels.
SCORE_TOLERANCE = 1e-5
BOX_TOLERANCE = 1e-2


@pytest.fixture(scope="module", autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@cache
def on_processor(name: str) -> TorchSession:
    return TorchSession(stored(name).graph_path, device="cpu", num_threads=1, max_batch_size=8)


def in_openvino(name: str, pixels: NDArray[np.uint8]) -> Outputs:
    model = stored(name)
    session = OpenVINOSession(
        model.graph_path,
        input_size=model.manifest.input_size,
        precision="f32",
        num_threads=1,
    )
    rows = [session.infer(pixels[row : row + 1]) for row in range(len(pixels))]
    return {name: np.concatenate([row[name] for row in rows]) for name in session.output_names}


def in_onnxruntime(name: str, pixels: NDArray[np.uint8]) -> Outputs:
    session = onnxruntime.InferenceSession(
        str(stored(name).graph_path), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": pixels}), strict=True))


@pytest.mark.parametrize("other", [in_openvino, in_onnxruntime], ids=["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", MODELS)
def test_torch__finds_what_the_other_runtimes_find(name: str, other):
    inputs = inputs_of(name)
    ours, theirs = on_processor(name).infer(inputs.pixels), other(name, inputs.pixels)

    assert {each: (v.shape, v.dtype) for each, v in ours.items()} == {
        each: (v.shape, v.dtype) for each, v in theirs.items()
    }
    np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=0, atol=SCORE_TOLERANCE)
    for row, geometry in enumerate(inputs.geometries):
        assert_same_detections(
            detections(name, ours, row, geometry),
            detections(name, theirs, row, geometry),
            score=SCORE_TOLERANCE,
            box=BOX_TOLERANCE,
            mask=2,
        )


@pytest.mark.parametrize("name", MODELS)
def test_torch__row_of_a_padded_batch_is_the_same_picture_alone(name: str):
    session, pixels = on_processor(name), inputs_of(name).pixels
    # All rows that padding may show of an earlier batch hold something else.
    session.infer(np.full((8, *pixels.shape[1:]), 255, np.uint8))
    together = session.infer(pixels)

    assert len(pixels) == 3, "a batch of three is padded to four"
    for row in range(3):
        alone = session.infer(pixels[row : row + 1])
        for each, values in alone.items():
            np.testing.assert_allclose(
                together[each][row], values[0], rtol=0, atol=1e-3, err_msg=each
            )


def test_torch__outputs_are_the_callers():
    session, pixels = on_processor(MODELS[0]), inputs_of(MODELS[0]).pixels
    first = session.infer(pixels[:1])
    kept = {name: values.copy() for name, values in first.items()}
    session.infer(np.zeros_like(pixels[:1]))

    for name, values in first.items():
        np.testing.assert_array_equal(values, kept[name])
        assert values.flags.c_contiguous


def test_torch__does_not_change_what_it_is_given():
    pixels = inputs_of(MODELS[0]).pixels.copy()
    pixels.flags.writeable = False

    on_processor(MODELS[0]).infer(pixels)


def test_torch__called_from_two_threads_gives_each_its_own():
    session, pixels = on_processor(MODELS[0]), inputs_of(MODELS[0]).pixels
    expected = [session.infer(pixels[row : row + 1])["scores"] for row in range(3)]
    together = threading.Barrier(2)

    def calls(row: int) -> None:
        together.wait(10)
        for _ in range(5):
            scores = session.infer(pixels[row : row + 1])["scores"]
            np.testing.assert_allclose(scores, expected[row], rtol=0, atol=1e-6)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(calls, range(2)))


def test_torch__opens_the_tensors_before_the_selection():
    model = stored("rtmdet-ins-nano-shapes")
    names = ("dense_logits", "dense_boxes", "dense_kernels", "mask_features")
    session = TorchSession(model.graph_path, device="cpu", num_threads=1, outputs=names)
    outputs = session.infer(inputs_of(model.name).pixels[:1])

    assert session.output_names == names
    assert outputs["dense_logits"].shape[1] == len(model.manifest.classes)
    assert outputs["dense_kernels"].shape[1] == 169


@pytest.mark.parametrize("tensor", ["dense_kernels", "kernels", "nonsense"])
def test_torch__tensor_that_the_graph_lacks(tensor: str):
    with pytest.raises(ValueError, match=f"no tensor named {tensor}"):
        TorchSession(
            stored("rtmdet-nano-shapes").graph_path, device="cpu", outputs=("boxes", tensor)
        )


def test_torch__says_what_it_is_and_why():
    session = TorchSession(
        stored(MODELS[0]).graph_path, device="cpu", num_threads=1, reason="as set"
    )

    assert session.description == f"torch {torch.__version__.partition('+')[0]} CPU f32"
    assert session.reason == "as set; f32: on a processor torch gains nothing by another"
    assert (session.concurrency, session.max_batch_size) == (1, 16)
    session.close()


@pytest.mark.parametrize("name", MODELS)
def test_torch__in_bfloat16_finds_the_same_objects(name: str):
    inputs = inputs_of(name)
    low = TorchSession(
        stored(name).graph_path, device="cpu", num_threads=1, precision="bf16", max_batch_size=4
    )
    ours, theirs = low.infer(inputs.pixels), on_processor(name).infer(inputs.pixels)

    assert low.precision == "bf16"
    assert_found_again(name, ours, theirs, score=0.05)


def test_torch__file_without_a_manifest(tmp_path: Path):
    graph = tmp_path / "1" / "model.onnx"
    graph.parent.mkdir()
    graph.write_bytes(b"no graph")

    with pytest.raises(ValueError, match="no models in"):
        TorchSession(graph, device="cpu")


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12)), (16, (1, 2, 4, 8, 16))],
)
def test_batch_buckets__double_up_to_the_largest(largest: int, sizes: tuple[int, ...]):
    assert batch_buckets(largest) == sizes


@pytest.mark.parametrize(("count", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 12), (12, 12)])
def test_smallest_bucket__holds_the_batch(count: int, bucket: int):
    assert smallest_bucket(batch_buckets(12), count) == bucket


def test_wiring__serves_by_torch_where_it_is_set():
    settings = Settings(
        model_repository=REPOSITORY,
        models=("rtmdet-nano-shapes",),
        runtime="torch",
        inference_threads=1,
        max_batch_size=2,
    )
    (status,) = build_detector(settings).registry.statuses

    assert status.served is not None
    assert status.served.runtime_description.startswith("torch ")
    assert status.served.runtime_reason.startswith("as set; ")


def test_wiring__imports_torch_for_no_other_runtime():
    program = (
        "import sys\n"
        "from service.settings import Settings\n"
        "from service.wiring import build_detector\n"
        f"build_detector(Settings(model_repository={str(REPOSITORY)!r}, runtime='openvino'))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)
