"""The values of a detection: what a request may ask for, and what it gets. No behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from model.config import Task
from model.masks import InstanceMask

MaskFormat = Literal["none", "rle", "polygon", "png"]
Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True)
class DetectOptions:
    """What a request may ask for; None stands for the model's own default.

    `classes` are names or ids as the caller wrote them. `timeout_s` counts from the arrival of
    the request.
    """

    model: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    classes: tuple[str, ...] | None = None
    class_agnostic_nms: bool = False
    mask_format: MaskFormat = "rle"
    timeout_s: float | None = None
    priority: Priority = "normal"


@dataclass(frozen=True)
class RotatedBox:
    """Centre and size in pixels, angle in radians in [-pi/2, pi/2), w >= h.

    The angle turns the box's width from the x axis, clockwise positive with y down.
    """

    cx: float
    cy: float
    w: float
    h: float
    angle: float


@dataclass(frozen=True)
class Detection:
    """One object. `box` is xyxy in pixels of the upright original image."""

    label: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]
    mask: InstanceMask | None = None
    rotated_box: RotatedBox | None = None


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answered."""

    name: str
    version: str
    task: Task


@dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds."""

    decode_s: float
    queue_s: float
    infer_s: float
    postprocess_s: float
    total_s: float


@dataclass(frozen=True)
class DetectionResult:
    """The answer to one picture; `width` and `height` are those of the upright image."""

    model: ModelIdentity
    width: int
    height: int
    detections: Sequence[Detection]
    timings: Timings
    batch_size: int
