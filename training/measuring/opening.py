"""From what is evaluated to something that runs it: the runtimes by their names.

The runtimes that serve are handed in by whoever knows them (`rtmdet.py`), so that what is measured
is what serves.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from model.config import Task
from model.manifest import DEFAULT_THRESHOLDS, GRAPH_FILE, Source, Thresholds, valid_input_size
from model.repository import RepositoryModel
from training.evaluation.evaluator import EvaluationSettings, Postprocessing
from training.evaluation.predictors.base import Predictor
from training.evaluation.predictors.graph import DENSE_OUTPUTS, GraphPredictor, GraphRuntime
from training.measuring.subjects import Subject, WeightsFile

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bf16", "f16"]

#: Our runtimes beside those that serve.
TORCH, ONNXRUNTIME = "torch", "onnxruntime"


class OpenServing(Protocol):
    """Opens an exported model in one of the runtimes that serve, by its name."""

    def __call__(
        self,
        runtime: str,
        model: RepositoryModel,
        *,
        precision: str | None,
        outputs: tuple[str, ...] | None,
    ) -> GraphRuntime:
        """`precision` None takes what serving takes; `outputs` None the graph's own."""
        ...


@dataclass(frozen=True)
class ServingRuntimes:
    """The runtimes that serve; the first is what exported models run in by default."""

    names: tuple[str, ...]
    open: OpenServing


@dataclass(frozen=True, kw_only=True)
class Running:
    """How the caller wants the model to run; None leaves a choice to us.

    `variant`, `classes` and `input_size` concern files of weights alone.
    """

    runtime: str | None = None
    precision: Precision | None = None
    device: str | None = None
    postprocess: Postprocessing = "published"
    variant: str | None = None
    classes: tuple[str, ...] | None = None
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model: `sha256` is that of `file`, `version` and `source` what its manifest says."""

    name: str
    kind: Literal["checkpoint", "exported"]
    version: int | None
    variant: str
    task: Task | Literal["classify"]
    file: Path
    sha256: str
    source: Source | None


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A detector that is ready to run."""

    identity: ModelIdentity
    classes: tuple[str, ...]
    thresholds: Thresholds
    predictor: Predictor


def open_model(
    subject: Subject, running: Running, serving: ServingRuntimes, stack: ExitStack
) -> OpenedModel:
    """Open it in the runtime that is wanted; `stack` releases it.

    Raises ValueError for what does not go together, and for files that cannot be used.
    """
    require_runtime(subject, running.runtime, serving)
    if isinstance(subject, WeightsFile):
        return _open_weights(subject, running)
    return _open_exported(subject, running, serving, stack)


def require_runtime(subject: Subject, name: str | None, serving: ServingRuntimes) -> None:
    """Raise ValueError for a runtime that there is not, or that does not run this."""
    names = (TORCH, *serving.names, ONNXRUNTIME)
    if name is not None and name not in names:
        raise ValueError(f"runtime '{name}': there are {', '.join(names)}")
    if isinstance(subject, WeightsFile):
        if name not in (None, TORCH):
            raise ValueError(
                f"{subject.path}: weights run in torch; to measure them in {name}, export them "
                f"first: rtmdet export {subject.path}"
            )
    elif name == TORCH:
        raise ValueError(
            f"{subject.name}: an exported graph runs in {', '.join(names[1:])}; for torch give "
            "the checkpoint that it was exported from"
        )


def _open_weights(subject: WeightsFile, running: Running) -> OpenedModel:
    from model.checkpoints.importing import Wanted, open_checkpoint
    from training.evaluation.predictors.torch_network import TorchNetwork

    if running.input_size is not None:
        valid_input_size(running.input_size)
    precision = torch_precision(running.precision)
    device = torch_device(running.device)
    wanted = Wanted(running.variant, running.classes, input_size=running.input_size)
    opened = open_checkpoint(subject.path, wanted)
    manifest = opened.manifest
    num_candidates = None
    if running.postprocess == "serving":
        from model.export import NUM_CANDIDATES

        # As it would be exported.
        num_candidates = NUM_CANDIDATES
    runtime = TorchNetwork(
        opened.network,
        task=manifest.task,
        input_size=manifest.input_size,
        device=device,
        precision=precision,
        num_candidates=num_candidates,
    )
    identity = ModelIdentity(
        name=opened.name,
        kind="checkpoint",
        version=None,
        variant=manifest.variant,
        task=manifest.task,
        file=subject.path,
        sha256=manifest.weights_sha256,
        source=manifest.source,
    )
    thresholds = DEFAULT_THRESHOLDS[manifest.task]
    predictor = _predictor(
        runtime, manifest.task, manifest.input_size, thresholds, running.postprocess
    )
    return OpenedModel(identity, manifest.classes, thresholds, predictor)


def _open_exported(
    model: RepositoryModel, running: Running, serving: ServingRuntimes, stack: ExitStack
) -> OpenedModel:
    _refuse_what_is_fixed(model, running)
    manifest = model.manifest
    name = running.runtime or serving.names[0]
    outputs = None if running.postprocess == "serving" else DENSE_OUTPUTS[manifest.task]
    try:
        if name == ONNXRUNTIME:
            runtime = _open_onnxruntime(model, running.precision, outputs)
        else:
            wanted = "f32" if running.precision == "float32" else running.precision
            runtime = serving.open(name, model, precision=wanted, outputs=outputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{model.graph_path}: {error}") from error
    stack.callback(runtime.close)
    identity = ModelIdentity(
        name=model.name,
        kind="exported",
        version=model.version,
        variant=manifest.variant,
        task=manifest.task,
        file=model.graph_path,
        sha256=manifest.files[GRAPH_FILE],
        source=manifest.source,
    )
    predictor = _predictor(
        runtime, manifest.task, manifest.input_size, manifest.thresholds, running.postprocess
    )
    return OpenedModel(identity, manifest.classes, manifest.thresholds, predictor)


def _predictor(
    runtime: GraphRuntime,
    task: Task,
    input_size: tuple[int, int],
    thresholds: Thresholds,
    postprocess: Postprocessing,
) -> GraphPredictor:
    settings = EvaluationSettings(
        task=task, input_size=input_size, postprocess=postprocess, thresholds=thresholds
    )
    return GraphPredictor(
        runtime, task=task, input_size=input_size, settings=settings.postprocess_settings
    )


def _refuse_what_is_fixed(model: RepositoryModel, running: Running) -> None:
    given = {
        "--model": running.variant,
        "--classes": running.classes,
        "--input-size": running.input_size,
        "--device": running.device,
    }
    for option, value in given.items():
        if value is not None:
            raise ValueError(
                f"{model.name}: {option} concerns weights alone; an exported model has its own"
            )


def _open_onnxruntime(
    model: RepositoryModel, precision: Precision | None, outputs: tuple[str, ...] | None
) -> GraphRuntime:
    if precision not in (None, "auto", "float32"):
        raise ValueError(f"onnxruntime computes in float32 here, not in {precision}")
    from training.evaluation.predictors.onnxruntime_graph import OnnxRuntimeGraph

    try:
        return OnnxRuntimeGraph(model.graph_path, outputs=outputs)
    except ModuleNotFoundError as error:
        raise ValueError(f"needs {error.name}: pip install onnxruntime onnx") from None


def torch_precision(precision: Precision | None) -> Literal["float32", "bf16"]:
    """What torch computes in. Raises ValueError for what it does not."""
    if precision == "f16":
        raise ValueError("torch computes in float32 or bf16 here, not in f16")
    return "bf16" if precision == "bf16" else "float32"


def torch_device(name: str | None) -> "torch.device":
    """The device of that name, by default a GPU where there is one. Raises ValueError."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device '{name}': it is cpu, cuda, or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device '{name}': it is cpu, cuda, or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device '{name}': {torch.cuda.device_count()} GPUs can be seen")
    return device
