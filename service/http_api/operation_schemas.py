"""The answers of the endpoints for whoever runs a server, described for the OpenAPI document."""

from typing import Literal

from pydantic import BaseModel, Field

from model.config import Task
from model.manifest import Evaluation, Thresholds


class SizeSchema(BaseModel):
    """A network's input, in pixels."""

    width: int
    height: int


class ModelStateSchema(BaseModel):
    """A model of the repository; what follows `problem` stands only where it is loaded."""

    name: str
    state: Literal["ready", "loading", "unloaded", "failed", "recovering"]
    problem: str | None = Field(None, description="Why it does not answer, or was not loaded.")
    default: bool | None = Field(None, description="Answers requests that name no model.")
    task: Task | None = None
    variant: str | None = None
    version: str | None = None
    classes: list[str] | None = None
    input_size: SizeSchema | None = None
    thresholds: Thresholds | None = None
    metrics: dict[str, float] | None = None
    evaluations: list[Evaluation] | None = None
    runtime: str | None = None


class ModelsSchema(BaseModel):
    """The answer to `GET /models`, those that answer by default first."""

    models: list[ModelStateSchema]


class LimitsSchema(BaseModel):
    """What a request may be."""

    max_image_bytes: int
    max_image_pixels: int
    max_image_side: int
    max_images_per_request: int
    max_batch_bytes: int
    max_images_under_way: int
    max_timeout_ms: int
    image_formats: list[str]


class LivezSchema(BaseModel):
    """The answer of a process that runs."""

    status: Literal["alive"]


class ReadyzSchema(BaseModel):
    """Whether pictures can be sent, and the state of each model; `problems` is by their names."""

    status: Literal["ready", "not ready", "draining"]
    models: dict[str, str] = {}
    problems: dict[str, str] = {}


class MeaningSchema(BaseModel):
    """What a problem's `type` means."""

    code: str
    title: str
    meaning: str
