"""The manifests: what a file of weights is, and what a model in the repository is.

A checkpoint `NAME.safetensors` has its manifest `NAME.json` beside it. A model in the repository
has `NAME/model.json` beside its Triton config. Both are JSON written by this module alone.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from model.config import SIZE_MULTIPLE, Task
from model.durable import move_into_place, part_of

#: Mean and standard deviation per channel, in BGR order, of grey levels 0..255.
PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STD = (57.375, 57.12, 58.395)

#: File names inside a model repository.
MANIFEST_FILE = "model.json"
CONFIG_FILE = "config.pbtxt"
GRAPH_FILE = "model.onnx"
GRAPH_FP16_FILE = "model.fp16.onnx"

#: What an exported graph takes, and what it may give.
GRAPH_INPUT = "images"
GRAPH_OUTPUTS = ("boxes", "scores", "labels", "kernels", "priors", "mask_features")

#: Those that the models of a task must give.
TASK_OUTPUTS: dict[Task, frozenset[str]] = {
    "detect": frozenset(GRAPH_OUTPUTS[:3]),
    "instance": frozenset(GRAPH_OUTPUTS),
    "rotated": frozenset(GRAPH_OUTPUTS[:3]),
}

#: A larger input takes gigabytes of activations for every picture.
MAX_INPUT_SIDE = 4096

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ManifestError(ValueError):
    """A manifest that is missing, broken or at odds with its files."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Value):
    """Where weights came from."""

    kind: Literal["published", "imported", "trained", "initialised"]
    file: str | None = None
    sha256: str | None = None
    url: str | None = None
    dataset: str | None = None
    command: str | None = None
    seed: int | None = None


class Preprocessing(_Value):
    """How a picture becomes the network's input. Mean and std are applied inside the graph."""

    channel_order: Literal["BGR"] = "BGR"
    resize: Literal["keep-ratio-top-left"] = "keep-ratio-top-left"
    pad_value: int = 114
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD


class Thresholds(_Value):
    """What a request gets that asks for nothing else."""

    score: Annotated[float, Field(ge=0, le=1)] = 0.3
    iou: Annotated[float, Field(ge=0, le=1)]
    max_detections: Annotated[int, Field(ge=1)]


#: Thresholds that a new model gets: the published NMS, and a score that suits people.
DEFAULT_THRESHOLDS: dict[Task, Thresholds] = {
    "detect": Thresholds(iou=0.65, max_detections=300),
    "instance": Thresholds(iou=0.6, max_detections=100),
    "rotated": Thresholds(iou=0.1, max_detections=300),
}


class CheckpointManifest(_Value):
    """What a file of weights is. `input_size` is (height, width) in pixels."""

    format: Literal["rtmdet-checkpoint-1"] = "rtmdet-checkpoint-1"
    variant: str
    task: Task
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    weights_sha256: str
    source: Source
    metrics: dict[str, float] = {}


class Evaluation(_Value):
    """What an exported version reached, and how that was measured.

    `dataset` is the data set's name, `split` the part of it that was evaluated. `settings` says
    which post-processing: that of the published figures, or that of serving. `runtime` names
    version, device and precision. `patches` are side and overlap in pixels, where large images were
    cut. `date` is a day, as in 2024-05-31. `metrics` are fractions.
    """

    dataset: str
    split: str
    num_images: int
    num_instances: int
    settings: Literal["published", "serving"]
    runtime: str
    patches: tuple[int, int] | None = None
    date: str
    metrics: dict[str, float]


class VersionManifest(_Value):
    """What one version of a model is; versions may differ in everything, classes included.

    `files` maps a file of the version's folder to its sha256. `num_candidates` is how many
    predictions the graph gives before suppression. `metrics` came with the weights; `evaluations`
    were made of this very graph.
    """

    variant: str
    task: Task
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    num_candidates: int
    opset: int
    preprocessing: Preprocessing = Preprocessing()
    thresholds: Thresholds
    files: dict[str, str]
    source: Source
    metrics: dict[str, float] = {}
    evaluations: tuple[Evaluation, ...] = ()

    @field_validator("classes")
    @classmethod
    def _has_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if not classes:
            raise ValueError("a model has at least one class")
        return classes

    @field_validator("input_size")
    @classmethod
    def _size_fits(cls, size: tuple[int, int]) -> tuple[int, int]:
        return valid_input_size(size)


class ModelManifest(_Value):
    """What a model in the repository is: its versions by number."""

    format: Literal["rtmdet-model-1"] = "rtmdet-model-1"
    name: str
    versions: dict[int, VersionManifest]

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        return valid_model_name(name)


_Manifest = TypeVar("_Manifest", CheckpointManifest, ModelManifest)


def valid_model_name(name: str) -> str:
    """`name` itself, or a ValueError: it becomes a folder and a part of URLs."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' is no model name: letters, digits, '.', '_' and '-', at most 128, "
            "the first a letter or digit"
        )
    return name


def valid_input_size(size: tuple[int, int]) -> tuple[int, int]:
    """`size` (height, width) itself, or a ValueError unless it can be exported and run."""
    if any(not SIZE_MULTIPLE <= side <= MAX_INPUT_SIDE or side % SIZE_MULTIPLE for side in size):
        raise ValueError(
            f"input size {size[0]}x{size[1]}: both sides must be multiples of {SIZE_MULTIPLE} "
            f"from {SIZE_MULTIPLE} to {MAX_INPUT_SIDE}"
        )
    return size


def write_manifest(manifest: CheckpointManifest | ModelManifest, path: Path) -> None:
    """Write as JSON; a reader sees the old manifest or the new one, never half of it."""
    part = part_of(path)
    part.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n", "utf-8")
    move_into_place(part, path)


def read_model_manifest(path: Path) -> ModelManifest:
    """Read `model.json`. Raises ManifestError with the file's path and what is wrong."""
    return _read(ModelManifest, path)


def read_checkpoint_manifest(path: Path) -> CheckpointManifest:
    """Read a checkpoint's JSON. Raises ManifestError with the file's path and what is wrong."""
    return _read(CheckpointManifest, path)


def _read(kind: type[_Manifest], path: Path) -> _Manifest:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ManifestError(f"{path}: {where}: {first['msg']}") from error


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
