"""Export a network into the model repository: one ONNX graph, its manifest, Triton's config.

The same `model.onnx` serves OpenVINO, ONNX Runtime and TensorRT. The tensors that candidates are
selected from keep fixed names inside it (`dense_logits`, `dense_boxes`, `dense_kernels`), so that
evaluation at the published settings can open them in the very file that is deployed.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from model.deployment.onnx_fp16 import convert_trunk_to_fp16
from model.deployment.tensorrt_support import MAX_TOPK, require_tensorrt_support
from model.deployment.triton_config import TensorSpec, triton_config
from model.durable import move_into_place, part_of
from model.folding import fold_batch_norms
from model.graph import ServingGraph
from model.manifest import (
    CONFIG_FILE,
    DEFAULT_THRESHOLDS,
    GRAPH_FILE,
    GRAPH_FP16_FILE,
    GRAPH_INPUT,
    MANIFEST_FILE,
    CheckpointManifest,
    ModelManifest,
    Thresholds,
    VersionManifest,
    file_sha256,
    read_model_manifest,
    valid_input_size,
    valid_model_name,
    write_manifest,
)
from model.repository import versions_in
from model.rtmdet import RTMDet

#: Understood by TensorRT 10 and 11, OpenVINO and ONNX Runtime; the exporter's native one.
OPSET = 18

#: Candidates per picture: enough for a crowd before suppression, cheap in every runtime.
NUM_CANDIDATES = 1000

#: The largest batch that Triton may form, and that engines are built for.
MAX_BATCH_SIZE = 16

_DENSE_PREFIX = "dense_"


def export_graph(
    network: RTMDet, input_size: tuple[int, int], num_candidates: int = NUM_CANDIDATES
) -> onnx.ModelProto:
    """The serving graph of `network` for one input size (height, width), with a dynamic batch.

    Raises ValueError for a size or a number of candidates that cannot be exported, and
    `UnsupportedByTensorRT` where the graph has an operator that TensorRT's parser lacks.
    """
    valid_input_size(input_size)
    if not 1 <= num_candidates <= MAX_TOPK:
        raise ValueError(f"candidates: {num_candidates} is not between 1 and {MAX_TOPK}")
    graph = ServingGraph(fold_batch_norms(network), input_size, num_candidates).eval()
    example = torch.zeros(2, *input_size, 3, dtype=torch.uint8)
    with torch.no_grad():
        names = list(graph(example))
    batch = torch.export.Dim("batch", min=1)
    with _quiet_exporter():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[GRAPH_INPUT],
            output_names=names,
            dynamic_shapes={GRAPH_INPUT: {0: batch}},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _keep_served_outputs(model)
    _remove_traces(model)
    onnx.checker.check_model(model, full_check=True)
    require_tensorrt_support(model)
    return model


def export_model(  # noqa: PLR0913 - one keyword per line of the command
    network: RTMDet,
    manifest: CheckpointManifest,
    repository: Path,
    *,
    name: str,
    version: int | None = None,
    input_size: tuple[int, int] | None = None,
    num_candidates: int = NUM_CANDIDATES,
    fp16: bool = False,
    max_batch_size: int = MAX_BATCH_SIZE,
    thresholds: Thresholds | None = None,
) -> Path:
    """Write a version of a model into the repository and return the version's folder.

    `version` defaults to the next free one, `input_size` (height, width) to the checkpoint's.
    With `fp16` the graph for strongly typed fp16 engines stands beside the float32 one. A reader
    of the repository sees the model as it was or as it is, never half of it: the version's folder
    appears whole, and the manifest is replaced last. Raises ValueError or FileExistsError.
    """
    valid_model_name(name)
    size = input_size or manifest.input_size
    folder = repository / name
    number = version if version is not None else max(versions_in(folder), default=0) + 1
    target = folder / str(number)
    if number < 1:
        raise ValueError(f"version {number}: versions count from 1")
    if target.exists():
        raise FileExistsError(f"{target} exists already; export under another version or name")
    graph = export_graph(network, size, num_candidates)
    graphs = {GRAPH_FILE: graph}
    if fp16:
        graphs[GRAPH_FP16_FILE] = convert_trunk_to_fp16(graph)
    digests = _write_version(graphs, target)
    described = VersionManifest(
        variant=manifest.variant,
        task=manifest.task,
        classes=manifest.classes,
        input_size=size,
        num_candidates=_num_candidates(graph),
        opset=OPSET,
        thresholds=thresholds or DEFAULT_THRESHOLDS[manifest.task],
        files=digests,
        source=manifest.source,
        metrics=manifest.metrics,
    )
    config = triton_config(
        name,
        max_batch_size,
        inputs=_specs(graph.graph.input),
        outputs=_specs(graph.graph.output),
        backend="onnxruntime",
        default_model_filename=GRAPH_FILE,
    )
    _replace_text(folder / CONFIG_FILE, config)
    versions = _versions_described(folder) | {number: described}
    write_manifest(ModelManifest(name=name, versions=versions), folder / MANIFEST_FILE)
    return target


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter logs about packages that we do not use and warns about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _keep_served_outputs(model: onnx.ModelProto) -> None:
    """Dense tensors were exported as outputs to get their names; the runtime need not give them."""
    served = [out for out in model.graph.output if not out.name.startswith(_DENSE_PREFIX)]
    del model.graph.output[:]
    model.graph.output.extend(served)


def _remove_traces(model: onnx.ModelProto) -> None:
    """The exporter notes stack traces, with paths of the exporting machine, at every node."""
    model.producer_name, model.producer_version, model.doc_string = "rtmdet-serving", "", ""
    graph = model.graph
    graph.name, graph.doc_string = "rtmdet", ""
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def _num_candidates(model: onnx.ModelProto) -> int:
    """What the graph really gives: fewer than asked for where the input has fewer priors."""
    scores = next(out for out in model.graph.output if out.name == "scores")
    return scores.type.tensor_type.shape.dim[1].dim_value


def _specs(values: Iterable[onnx.ValueInfoProto]) -> list[TensorSpec]:
    """Names, types and shapes without the batch, for Triton's config."""
    return [TensorSpec.of(value) for value in values]


def _versions_described(folder: Path) -> dict[int, VersionManifest]:
    """What the manifest says of the versions that are still there."""
    path = folder / MANIFEST_FILE
    described = read_model_manifest(path).versions if path.exists() else {}
    present = versions_in(folder)
    return {number: version for number, version in described.items() if number in present}


def _write_version(graphs: dict[str, onnx.ModelProto], target: Path) -> dict[str, str]:
    """Write the graphs to a folder that appears under its name only when whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        for file, graph in graphs.items():
            onnx.save(graph, part_of(staging / file))
            move_into_place(part_of(staging / file), staging / file)
        digests = {file: file_sha256(staging / file) for file in graphs}
        os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return digests


def _replace_text(path: Path, text: str) -> None:
    part_of(path).write_text(text, "utf-8")
    move_into_place(part_of(path), path)
