"""Whether every model of a repository can be served: its files, its graph, one real inference."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.manifest import TASK_OUTPUTS, VersionManifest
from model.repository import ModelRepository, RepositoryError, RepositoryModel
from service.diagnosis.findings import Finding
from service.runtime.base import Outputs, Runtime

_NUM_TIMED = 5

#: How far a score may be off that was computed beside others: libraries choose other kernels then.
_SCORE_TOLERANCE = 0.02

#: Opens the runtime that a server would open.
OpenRuntime = Callable[[RepositoryModel], Runtime]

Pictures = NDArray[np.uint8]


def check_models(repository: ModelRepository, open_runtime: OpenRuntime) -> list[Finding]:
    """Every model of a repository, or why there is none."""
    try:
        repository.require()
    except RepositoryError as error:
        return [Finding("models", "repository", "problem", str(error), "name or fill one")]
    return [
        finding
        for name in repository.names()
        for finding in check_model(repository, name, open_runtime)
    ]


def check_chosen(
    present: Sequence[str], models: Sequence[str], default_model: str | None
) -> list[Finding]:
    """Whether the models that the settings name are among those `present`."""
    named = {f"RTMDET_MODELS: {name}": name for name in models}
    if default_model is not None:
        named["RTMDET_DEFAULT_MODEL"] = default_model
    return [
        Finding("models", what, "problem", f"no model '{name}'; a server refuses to start", hint)
        for what, name in named.items()
        if name not in present
        for hint in [f"there are: {', '.join(present) or 'none'}"]
    ]


def check_model(repository: ModelRepository, name: str, open_runtime: OpenRuntime) -> list[Finding]:
    """One model's newest version; what fails ends the checks that need it."""
    area = f"model {name}"
    try:
        source = repository.open(name)
    except RepositoryError as error:
        advice = "export or pull the model again; its files must be those that the manifest is of"
        return [Finding(area, "files", "problem", str(error), advice)]
    manifest = source.manifest
    height, width = manifest.input_size
    findings = [
        Finding(
            area,
            "files",
            "ok",
            f"version {source.version}, {manifest.variant}, {manifest.task}, "
            f"{len(manifest.classes)} classes, {width}x{height}; sha256 as in the manifest",
        )
    ]
    try:
        runtime = open_runtime(source)
    except (ImportError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        return [*findings, Finding(area, "graph", "problem", reason, "export the model again")]
    try:
        findings.append(
            Finding(area, "graph", "ok", f"compiled: {runtime.description} ({runtime.reason})")
        )
        findings += check_inference(area, runtime, manifest)
    finally:
        runtime.close()
    return findings


def check_inference(area: str, runtime: Runtime, manifest: VersionManifest) -> list[Finding]:
    """What the runtime gives for pictures: sound values, always the same ones, in what time."""
    pictures = Probe.of(manifest.input_size)
    advice = "try RTMDET_PRECISION=f32; if that fails too, export the model again"
    try:
        alone = [runtime.infer(picture) for picture in pictures.each]
    except Exception as error:
        # Whatever a runtime raises is what the report is about.
        reason = " ".join(str(error).split())
        return [Finding(area, "inference", "problem", f"it fails: {reason}", advice)]
    faults = [fault for outputs in alone for fault in faults_in(outputs, manifest, 1)]
    if faults:
        return [Finding(area, "inference", "problem", "; ".join(faults), advice)]
    median_s = _median_seconds(runtime, pictures.each[0])
    timed = Finding(
        area,
        "inference",
        "ok",
        f"{median_s * 1000:.1f} ms a picture, one at a time",
        data={"median_ms": round(median_s * 1000, 3), "timed": _NUM_TIMED},
    )
    return [timed, *_repeatable(area, runtime, pictures, alone)]


@dataclass(frozen=True)
class Probe:
    """Two pictures that differ, uint8 BGR [1, h, w, 3]."""

    each: Sequence[Pictures]

    @classmethod
    def of(cls, input_size: tuple[int, int]) -> "Probe":
        """Coloured squares for a network of that input, (height, width)."""
        height, width = input_size
        generator = np.random.default_rng(0)
        shape = (2, -(-height // 32), -(-width // 32), 3)
        squares = generator.integers(0, 256, shape, np.uint8)
        enlarged = squares.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
        return cls([np.ascontiguousarray(enlarged[index][None]) for index in range(2)])


def faults_in(outputs: Outputs, manifest: VersionManifest, num_pictures: int) -> list[str]:
    """What is wrong with the outputs of so many pictures: names, shapes, values."""
    missing = TASK_OUTPUTS[manifest.task] - set(outputs)
    if missing:
        return [f"no output {name}" for name in sorted(missing)]
    num_candidates = outputs["scores"].shape[-1]
    faults = [
        f"{name} has shape {list(outputs[name].shape)}, not {list(shape)}"
        for name, shape in _shapes(manifest, num_pictures, num_candidates).items()
        if outputs[name].shape != shape
    ]
    if not 1 <= num_candidates <= manifest.num_candidates:
        faults.append(f"{num_candidates} candidates, where {manifest.num_candidates} are the most")
    faults += [
        f"{name} has values that are no numbers"
        for name, values in outputs.items()
        if not np.isfinite(values).all()
    ]
    return faults or _out_of_range(outputs, len(manifest.classes))


def _shapes(
    manifest: VersionManifest, num_pictures: int, num_candidates: int
) -> dict[str, tuple[int, ...]]:
    """Shapes that follow from the task and the size of the input."""
    rows = (num_pictures, num_candidates)
    shapes = {
        "boxes": (*rows, 5 if manifest.task == "rotated" else 4),
        "scores": rows,
        "labels": rows,
    }
    if manifest.task != "instance":
        return shapes
    height, width = manifest.input_size
    return shapes | {
        "kernels": (*rows, 169),
        "priors": (*rows, 3),
        "mask_features": (num_pictures, 8, height // 8, width // 8),
    }


def _out_of_range(outputs: Outputs, num_classes: int) -> list[str]:
    scores, labels = _floats(outputs, "scores"), _floats(outputs, "labels")
    faults: list[str] = []
    if scores.min() < 0 or scores.max() > 1:
        faults.append("scores are not all between 0 and 1")
    if labels.min() < 0 or labels.max() >= num_classes:
        faults.append(f"labels are not all among the {num_classes} classes")
    return faults


def _floats(outputs: Outputs, name: str) -> NDArray[np.float64]:
    return outputs[name].astype(np.float64)


def _median_seconds(runtime: Runtime, picture: Pictures) -> float:
    def seconds() -> float:
        began_s = time.perf_counter()
        runtime.infer(picture)
        return time.perf_counter() - began_s

    return statistics.median(seconds() for _ in range(_NUM_TIMED))


def _repeatable(
    area: str, runtime: Runtime, pictures: Probe, alone: Sequence[Outputs]
) -> list[Finding]:
    """The same picture again, in a batch, and beside another: the same answer each time."""
    again = runtime.infer(pictures.each[0])
    findings = [_compared(area, "repeated", [alone[0]], [again])]
    if runtime.max_batch_size > 1:
        batch = runtime.infer(np.concatenate(pictures.each))
        rows = [{name: each[row : row + 1] for name, each in batch.items()} for row in range(2)]
        findings.append(_compared(area, "in a batch", alone, rows))
    if runtime.concurrency > 1:
        with ThreadPoolExecutor(2) as threads:
            beside = list(threads.map(runtime.infer, pictures.each))
        findings.append(_compared(area, "side by side", alone, beside))
    return findings


def _compared(area: str, name: str, wanted: Sequence[Outputs], given: Sequence[Outputs]) -> Finding:
    """Scores must be nearly those of the same pictures alone; other values may change places."""
    error = max(
        float(np.abs(_floats(one, "scores") - _floats(other, "scores")).max())
        for one, other in zip(wanted, given, strict=True)
    )
    same = all(
        np.array_equal(one[key], other[key])
        for one, other in zip(wanted, given, strict=True)
        for key in one
    )
    data = {"equal": same, "score_error": error}
    if same:
        return Finding(area, name, "ok", "the same to the bit", data=data)
    if error <= _SCORE_TOLERANCE:
        return Finding(area, name, "ok", f"scores differ by up to {error:.2g}", data=data)
    return Finding(
        area,
        name,
        "problem",
        f"scores differ by up to {error:.2g}: answers depend on what else runs",
        "try RTMDET_PRECISION=f32, and report this",
        data,
    )
