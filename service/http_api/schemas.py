"""The JSON of an answer: written once as bytes, and described for the OpenAPI document."""

import base64
from collections.abc import Callable

from pydantic import BaseModel, Field
from pydantic_core import to_json

from model.masks import InstanceMask, encode_png, encode_rle, polygons
from service.detection import Detection, DetectionResult, MaskFormat


class ModelSchema(BaseModel):
    """Which model answered."""

    name: str
    version: str
    task: str


class ImageSchema(BaseModel):
    """Size of the upright picture (EXIF orientation applied), in pixels."""

    width: int
    height: int


class RotatedBoxSchema(BaseModel):
    """Centre and size in pixels, w >= h; angle in radians, clockwise positive with y down."""

    cx: float
    cy: float
    w: float
    h: float
    angle: float


class PolygonSchema(BaseModel):
    """One connected part: its outline and its holes, as [x, y] in pixels."""

    exterior: list[list[float]]
    holes: list[list[list[float]]]


class MaskSchema(BaseModel):
    """The mask in the format that the request asked for; `size` is [height, width]."""

    format: str
    size: list[int]
    counts: str | None = Field(None, description="COCO's compressed run lengths (`rle`)")
    polygons: list[PolygonSchema] | None = Field(None, description="(`polygon`)")
    png: str | None = Field(None, description="base64 of a one-channel picture, 0 or 255 (`png`)")


class DetectionSchema(BaseModel):
    """One object; `box` is [x1, y1, x2, y2] in pixels of the upright picture."""

    label: str
    class_id: int
    score: float
    box: list[float]
    mask: MaskSchema | None = None
    rotated_box: RotatedBoxSchema | None = None


class TimingsSchema(BaseModel):
    """Milliseconds."""

    decode: float
    queue: float
    infer: float
    postprocess: float
    total: float


class BatchSchema(BaseModel):
    """How many pictures were inferred together."""

    size: int


class DetectSchema(BaseModel):
    """The answer to `POST /detect`."""

    id: str
    model: ModelSchema
    image: ImageSchema
    detections: list[DetectionSchema]
    timings_ms: TimingsSchema
    batch: BatchSchema


class FailureSchema(BaseModel):
    """A picture of several that failed alone."""

    problem: "ProblemSchema"


class DetectBatchSchema(BaseModel):
    """The answer to `POST /detect:batch`: a result for each picture, in their order."""

    id: str
    results: list[DetectSchema | FailureSchema]


class FieldErrorSchema(BaseModel):
    """What is wrong with one option: a JSON pointer (RFC 6901) to it, and a sentence."""

    pointer: str
    detail: str


class ProblemSchema(BaseModel):
    """RFC 9457; `code` is stable, `detail` says what to do."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldErrorSchema] = []
    limits: dict[str, int] = Field({}, description="Those that the request exceeds.")
    retry_after_ms: int = Field(0, description="When the same request may succeed.")


def detection_json(
    result: DetectionResult,
    request_id: str,
    mask_format: MaskFormat,
    *,
    go_on: Callable[[], None] = lambda: None,
) -> bytes:
    """The answer as JSON bytes. `go_on` is called before each detection; what it raises ends it."""
    timings = result.timings
    return to_json(
        {
            "id": request_id,
            "model": {
                "name": result.model.name,
                "version": result.model.version,
                "task": result.model.task,
            },
            "image": {"width": result.width, "height": result.height},
            "detections": [_detection(found, mask_format, go_on) for found in result.detections],
            "timings_ms": {
                "decode": _ms(timings.decode_s),
                "queue": _ms(timings.queue_s),
                "infer": _ms(timings.infer_s),
                "postprocess": _ms(timings.postprocess_s),
                "total": _ms(timings.total_s),
            },
            "batch": {"size": result.batch_size},
        }
    )


def _detection(
    found: Detection, mask_format: MaskFormat, go_on: Callable[[], None]
) -> dict[str, object]:
    go_on()
    members: dict[str, object] = {
        "label": found.label,
        "class_id": found.class_id,
        "score": round(found.score, 5),
        "box": [round(side, 2) for side in found.box],
    }
    if found.mask is not None and mask_format != "none":
        members["mask"] = _mask(found.mask, mask_format)
    if found.rotated_box is not None:
        box = found.rotated_box
        members["rotated_box"] = {
            "cx": round(box.cx, 2),
            "cy": round(box.cy, 2),
            "w": round(box.w, 2),
            "h": round(box.h, 2),
            "angle": round(box.angle, 5),
        }
    return members


def _mask(mask: InstanceMask, mask_format: MaskFormat) -> dict[str, object]:
    size = [mask.image_height, mask.image_width]
    if mask_format == "polygon":
        return {"format": "polygon", "size": size, "polygons": polygons(mask)}
    if mask_format == "png":
        text = base64.b64encode(encode_png(mask)).decode("ascii")
        return {"format": "png", "size": size, "png": text}
    return {"format": "rle", **encode_rle(mask)}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
