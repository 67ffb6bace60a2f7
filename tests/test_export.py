"""The exported graph against the network, in every runtime at hand, and its place on disk."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from numpy.typing import NDArray

from model.config import VARIANTS
from model.deployment.onnx_fp16 import convert_trunk_to_fp16
from model.export import export_graph, export_model
from model.folding import fold_batch_norms
from model.graph import Normalise, ServingGraph
from model.manifest import (
    GRAPH_FILE,
    GRAPH_FP16_FILE,
    CheckpointManifest,
    Source,
    file_sha256,
    read_model_manifest,
)
from model.repository import ModelRepository
from model.rtmdet import RTMDet, build_rtmdet
from service.runtime.openvino_session import OpenVINOSession

with warnings.catch_warnings():
    # Its generated modules use an interface that protobuf has deprecated.
    warnings.simplefilter("ignore")
    from tritonclient.grpc import model_config_pb2

SIZE = (96, 160)
NUM_CANDIDATES = 200
TASKS = {"detect": "rtmdet-tiny", "instance": "rtmdet-ins-tiny", "rotated": "rtmdet-r-tiny"}

Arrays = dict[str, NDArray[np.generic]]


def pictures(count: int) -> NDArray[np.uint8]:
    """Smooth coloured patches: noise would average out to the same features everywhere."""
    rng = np.random.default_rng(count)
    patches = rng.integers(0, 256, (count, 6, 10, 3), np.uint8)
    height, width = SIZE
    return np.stack(
        [cv2.resize(patch, (width, height), interpolation=cv2.INTER_CUBIC) for patch in patches]
    )


def small_network(task: str) -> RTMDet:
    """A network whose predictions are spread out, as trained ones are, so that ranks are clear."""
    variant = VARIANTS[TASKS[task]]
    backbone = replace(variant.backbone, widen=0.125)
    torch.manual_seed(len(task))
    network = build_rtmdet(
        replace(variant, backbone=backbone, num_classes=5, exp_on_reg=task == "rotated")
    )
    with torch.no_grad():
        for name, parameter in network.head.named_parameters():
            if "predictors" in name and parameter.ndim == 4:
                parameter.normal_(std=0.4 if "cls" in name else 0.1)
            elif "cls_predictors" in name:
                parameter.fill_(-3.0)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        # Statistics of real activations keep the signal alive through all the layers.
        network.train()(Normalise()(torch.from_numpy(pictures(64))))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                # A channel that hardly moves would blow up rounding errors, as no trained one does.
                module.running_var.clamp_(min=float(module.running_var.median()))
    return network.eval()


@dataclass(frozen=True)
class Exported:
    """A network, its graph, and the graph's file."""

    network: RTMDet
    graph: onnx.ModelProto
    path: Path


@cache
def cached_network(task: str) -> RTMDet:
    return small_network(task)


@cache
def graph_of(task: str, size: tuple[int, int]) -> onnx.ModelProto:
    """The graph of `cached_network`: exporting takes seconds."""
    return export_graph(cached_network(task), size, NUM_CANDIDATES)


@pytest.fixture(scope="module", params=TASKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    network, graph = cached_network(request.param), graph_of(request.param, SIZE)
    path = tmp_path_factory.mktemp("graph") / GRAPH_FILE
    onnx.save(graph, path)
    return Exported(network, graph, path)


def in_torch(exported: Exported, images: NDArray[np.uint8]) -> Arrays:
    with torch.inference_mode():
        graph = ServingGraph(exported.network, SIZE, NUM_CANDIDATES).eval()
        outputs = graph(torch.from_numpy(images))
    served = {output.name for output in exported.graph.graph.output}
    return {name: outputs[name].numpy() for name in outputs if name in served}


def in_onnxruntime(model: onnx.ModelProto, images: NDArray[np.uint8]) -> Arrays:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def in_openvino(exported: Exported, images: NDArray[np.uint8]) -> Arrays:
    """The batch as a whole, not picture by picture as the embedded runtime takes it."""
    import openvino

    compiled = openvino.Core().compile_model(
        exported.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    results = compiled(images)
    names = [output.name for output in exported.graph.graph.output]
    return dict(zip(names, results.values(), strict=True))


def assert_same_candidates(ours: Arrays, theirs: Arrays) -> None:
    """Equal up to rounding; candidates whose scores are equal up to rounding may change places."""
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=0, atol=1e-5)
    for row in range(len(ours["scores"])):
        order = _order_of(theirs, row), _order_of(ours, row)
        for name in ours:
            if name == "mask_features":
                np.testing.assert_allclose(ours[name][row], theirs[name][row], rtol=0, atol=1e-3)
                continue
            there, here = theirs[name][row][order[0]], ours[name][row][order[1]]
            tolerance = 0 if name == "labels" else 1e-3
            np.testing.assert_allclose(here, there, rtol=0, atol=tolerance, err_msg=name)


def _order_of(outputs: Arrays, row: int) -> NDArray[np.intp]:
    """By label, then by place: an order that does not depend on the scores.

    The weakest are left out: which of two near ties is the last one is a matter of rounding.
    """
    scores = outputs["scores"][row]
    kept = np.flatnonzero(scores > scores[-1] + 1e-4)
    keys = np.round(outputs["boxes"][row][kept, ::-1].T)
    return kept[np.lexsort((*keys, outputs["labels"][row][kept]))]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_graph__onnxruntime_and_openvino_agree_with_torch(
    exported: Exported, batch_size: int
) -> None:
    images = pictures(batch_size)
    ours = in_torch(exported, images)
    assert np.diff(ours["scores"], axis=1).max() <= 0, "candidates are not best first"
    assert ours["scores"].std() > 100 * 1e-5, "the scores are too alike to tell ranks apart"
    assert_same_candidates(in_onnxruntime(exported.graph, images), ours)
    assert_same_candidates(in_openvino(exported, images), ours)


@pytest.mark.parametrize("run", [in_torch, in_openvino, None], ids=["torch", "openvino", "ort"])
def test_graph__row_of_a_batch_is_the_single_picture(
    exported: Exported, run: Callable[[Exported, NDArray[np.uint8]], Arrays] | None
) -> None:
    def infer(images: NDArray[np.uint8]) -> Arrays:
        return in_onnxruntime(exported.graph, images) if run is None else run(exported, images)

    images = pictures(3)
    batch = infer(images)
    for row in range(3):
        single = infer(images[row : row + 1])
        assert_same_candidates({n: v[row : row + 1] for n, v in batch.items()}, single)


def test_graph__candidates_are_the_best_pairs_of_all(exported: Exported) -> None:
    """The two-step selection against sorting every (prior, class) pair."""
    images = torch.from_numpy(pictures(2))
    with torch.inference_mode():
        outputs = ServingGraph(exported.network, SIZE, NUM_CANDIDATES).eval()(images)
    every = outputs["dense_logits"].flatten(1).sigmoid()
    best = every.sort(dim=1, descending=True).values[:, :NUM_CANDIDATES]
    torch.testing.assert_close(outputs["scores"], best)


def test_graph__embedded_runtime_gives_the_same_and_opens_dense_tensors(
    exported: Exported,
) -> None:
    images = pictures(1)
    session = OpenVINOSession(exported.path, input_size=SIZE, precision="f32", num_threads=1)
    assert_same_candidates(dict(session.infer(images)), in_torch(exported, images))
    dense = OpenVINOSession(
        exported.path,
        input_size=SIZE,
        precision="f32",
        num_threads=1,
        outputs=("dense_logits", "dense_boxes"),
    ).infer(images)
    num_priors = sum(SIZE[0] // stride * (SIZE[1] // stride) for stride in (8, 16, 32))
    assert dense["dense_logits"].shape == (1, 5, num_priors)
    assert dense["dense_boxes"].shape[2] == num_priors


def test_graph__fp16_variant_keeps_scores(exported: Exported) -> None:
    images = pictures(3)
    half = in_onnxruntime(convert_trunk_to_fp16(exported.graph), images)
    full = in_onnxruntime(exported.graph, images)
    assert {name: (v.dtype, v.shape) for name, v in half.items()} == {
        name: (v.dtype, v.shape) for name, v in full.items()
    }
    np.testing.assert_allclose(half["scores"], full["scores"], rtol=0, atol=2e-3)


def test_graph__has_no_traces_of_the_exporting_machine(exported: Exported) -> None:
    content = exported.graph.SerializeToString()
    for trace in (b"site-packages", b".py", str(Path.cwd()).encode()):
        assert trace not in content


def test_graph__batch_is_dynamic_and_the_rest_is_not(exported: Exported) -> None:
    for value in (*exported.graph.graph.input, *exported.graph.graph.output):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param
        assert all(dim.dim_value > 0 for dim in rest)


@pytest.mark.parametrize("size", [(100, 320), (0, 32), (320, 33)])
def test_export_graph__size_that_is_no_multiple_of_32(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        export_graph(small_network("detect"), size)


@pytest.mark.parametrize("num_candidates", [0, 3841])
def test_export_graph__candidates_out_of_range(num_candidates: int) -> None:
    with pytest.raises(ValueError, match="3840"):
        export_graph(small_network("detect"), SIZE, num_candidates)


@pytest.mark.parametrize("task", TASKS)
def test_fold_batch_norms__computes_the_same(task: str) -> None:
    network = small_network(task)
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        folded = fold_batch_norms(network)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-3)


def checkpoint_manifest() -> CheckpointManifest:
    return CheckpointManifest(
        variant="rtmdet-tiny",
        task="detect",
        classes=("a", "b", "c", "d", "e"),
        input_size=SIZE,
        weights_sha256="0" * 64,
        source=Source(kind="initialised", seed=1),
        metrics={"box_ap": 0.5},
    )


@pytest.fixture(scope="module")
def network() -> Iterator[RTMDet]:
    """What is written here is the graph of this network, which is exported once for each size."""

    def export_once(given: RTMDet, size: tuple[int, int], _: int) -> onnx.ModelProto:
        assert given is cached_network("detect")
        return graph_of("detect", size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.export.export_graph", export_once)
        yield cached_network("detect")


@pytest.fixture(scope="module")
def repository(network: RTMDet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for fp16 in (False, True):
        export_model(network, checkpoint_manifest(), root, name="boxes", fp16=fp16)
    return root


def test_export_model__versions_count_up_and_the_newest_is_opened(repository: Path) -> None:
    opened = ModelRepository(repository).open("boxes")
    assert opened.version == 2
    assert opened.manifest.classes == ("a", "b", "c", "d", "e")
    assert opened.manifest.metrics == {"box_ap": 0.5}
    assert set(opened.manifest.files) == {GRAPH_FILE, GRAPH_FP16_FILE}


def test_export_model__going_back_a_version_serves_what_that_one_was(
    network: RTMDet, tmp_path: Path
) -> None:
    for size in ((64, 96), SIZE):
        export_model(network, checkpoint_manifest(), tmp_path, name="boxes", input_size=size)
    assert ModelRepository(tmp_path).open("boxes").manifest.input_size == SIZE
    shutil.rmtree(tmp_path / "boxes" / "2")
    opened = ModelRepository(tmp_path).open("boxes")
    assert (opened.version, opened.manifest.input_size) == (1, (64, 96))


def test_export_model__config_is_what_triton_would_read(repository: Path) -> None:
    config = text_format.Parse(
        (repository / "boxes" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    manifest = read_model_manifest(repository / "boxes" / "model.json").versions[2]
    assert config.name == "boxes"
    assert [(i.name, list(i.dims)) for i in config.input] == [("images", [*SIZE, 3])]
    assert [(o.name, list(o.dims)) for o in config.output] == [
        ("boxes", [manifest.num_candidates, 4]),
        ("scores", [manifest.num_candidates]),
        ("labels", [manifest.num_candidates]),
    ]


def test_export_model__leaves_nothing_half_done(repository: Path) -> None:
    assert {path.name for path in (repository / "boxes").iterdir()} == {
        "config.pbtxt",
        "model.json",
        "1",
        "2",
    }


def test_export_model__version_that_exists_is_refused(network: RTMDet, repository: Path) -> None:
    before = file_sha256(repository / "boxes" / "1" / GRAPH_FILE)
    with pytest.raises(FileExistsError, match="another version"):
        export_model(network, checkpoint_manifest(), repository, name="boxes", version=1)
    assert file_sha256(repository / "boxes" / "1" / GRAPH_FILE) == before


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "-x", "a" * 129])
def test_export_model__name_that_is_no_folder(network: RTMDet, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no model name"):
        export_model(network, checkpoint_manifest(), tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []
