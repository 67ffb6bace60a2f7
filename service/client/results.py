"""What the server answers, as frozen values whose names are those of its JSON.

Members that a newer server adds are passed over; what is missing or of another kind is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from service.client.masks import Mask

Pixels = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class RotatedBox:
    """Centre and size in pixels, w >= h; angle in radians, clockwise positive with y down."""

    cx: FiniteFloat
    cy: FiniteFloat
    w: FiniteFloat
    h: FiniteFloat
    angle: FiniteFloat


@dataclass(frozen=True)
class Detection:
    """One object. `box` is x1, y1, x2, y2 in pixels of the upright picture.

    `mask` and `rotated_box` are there where the model's task has them.
    """

    label: str
    class_id: int
    score: Annotated[float, Field(ge=0, le=1)]
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    mask: Mask | None = None
    rotated_box: RotatedBox | None = None


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answered."""

    name: str
    version: str
    task: str


@dataclass(frozen=True)
class ImageSize:
    """Of the upright picture (EXIF orientation applied), in pixels."""

    width: Pixels
    height: Pixels


@dataclass(frozen=True)
class Timings:
    """Where the server's time went, in milliseconds."""

    decode: FiniteFloat
    queue: FiniteFloat
    infer: FiniteFloat
    postprocess: FiniteFloat
    total: FiniteFloat


@dataclass(frozen=True)
class Batch:
    """How many pictures were inferred together."""

    size: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DetectionResult:
    """What was found in one picture. `id` is the request's."""

    id: str
    model: ModelIdentity
    image: ImageSize
    detections: tuple[Detection, ...]
    timings_ms: Timings
    batch: Batch

    def __post_init__(self) -> None:
        size = (self.image.height, self.image.width)
        if any(found.mask is not None and found.mask.size != size for found in self.detections):
            raise ValueError("a mask has another size than the picture")

    def to_json(self) -> str:
        """The answer on one line, as the server wrote it."""
        return _serializer().dump_json(self, exclude_none=True).decode()


@cache
def _serializer() -> TypeAdapter[DetectionResult]:
    return TypeAdapter(DetectionResult)


@dataclass(frozen=True)
class InputSize:
    """Of the network, in pixels."""

    width: Pixels
    height: Pixels


@dataclass(frozen=True)
class Model:
    """A model of the server. One that is not loaded has a name, a state and maybe a problem."""

    name: str
    state: str
    problem: str | None = None
    default: bool = False
    task: Literal["detect", "instance", "rotated"] | None = None
    variant: str | None = None
    version: str | None = None
    classes: tuple[str, ...] = ()
    input_size: InputSize | None = None
    thresholds: Mapping[str, int | float] = field(default_factory=dict[str, int | float])
    metrics: Mapping[str, int | float] = field(default_factory=dict[str, int | float])
    runtime: str | None = None


@dataclass(frozen=True)
class Limits:
    """What the server takes: bytes, pixels and milliseconds of a request, and how many pictures."""

    max_image_bytes: int
    max_image_pixels: int
    max_image_side: int
    max_timeout_ms: int
    image_formats: tuple[str, ...]
    max_images_per_request: int = 1
    max_images_under_way: int | None = None
