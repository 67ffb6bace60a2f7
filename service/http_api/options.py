"""The options of a request, wherever they stand: query, form field or JSON, the same names."""

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.detection import DetectOptions, MaskFormat, Priority
from service.errors import FieldError, InvalidOption
from service.timeouts import MAX_TIMEOUT_MS

#: What other servers call them.
ALIASES: dict[str, str] = {
    "confidence": "score_threshold",
    "conf": "score_threshold",
    "threshold": "score_threshold",
    "iou": "iou_threshold",
    "nms_iou": "iou_threshold",
    "overlap": "iou_threshold",
    "max_det": "max_detections",
}

#: Longest name or value of an option.
MAX_TEXT = 16_384

Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class OptionFields(BaseModel):
    """Names, types and ranges; also the source of the options in the OpenAPI document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, description="Model that answers; see `GET /models`.")
    score_threshold: Ratio | None = Field(
        None, description="Detections with a lower score are left out.", examples=[0.3]
    )
    iou_threshold: Ratio | None = Field(
        None, description="Of two boxes of a class that overlap more, the weaker is left out."
    )
    max_detections: Annotated[int, Field(ge=1, le=3840)] | None = Field(
        None, description="At most so many detections, the strongest."
    )
    classes: tuple[str, ...] | None = Field(
        None, description="Names or ids of the classes wanted, separated by commas."
    )
    class_agnostic_nms: bool = Field(
        False, description="Suppress overlapping boxes of different classes too."
    )
    mask_format: MaskFormat = Field("rle", description="How masks are written, if at all.")
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = Field(
        None, description="An answer that would come later is not wanted."
    )
    priority: Priority = Field("normal", description="Who goes first when requests wait.")

    @field_validator("classes", mode="before")
    @classmethod
    def _split_classes(cls, value: object) -> object:
        parts: Sequence[object] = [value] if isinstance(value, str | int) else _as_list(value)
        if not all(isinstance(part, str | int) and len(str(part)) <= MAX_TEXT for part in parts):
            raise ValueError("give names or ids separated by commas, such as person,car")
        names = [name.strip() for part in parts for name in str(part).split(",")]
        if not names or not all(names):
            raise ValueError("give names or ids separated by commas, such as person,car")
        return tuple(names)


def _as_list(value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return value  # pyright: ignore[reportUnknownVariableType] - any element is written out
    raise ValueError("give names or ids separated by commas, such as person,car")


def parse_options(given: Iterable[tuple[str, object]]) -> DetectOptions:
    """Options as the caller wrote them to their values.

    `given` may name an option more than once only for `classes`. Raises InvalidOption.
    """
    values: dict[str, object] = {}
    several: list[object] = []
    for written, value in given:
        if len(written) > 64:
            raise _invalid(written[:64], f"unknown option '{written[:64]}…'{_hint(written[:64])}")
        name = ALIASES.get(written, written)
        if name not in OptionFields.model_fields:
            raise _invalid(written, f"unknown option '{written}'{_hint(written)}")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise _invalid(written, f"option '{written}' has more than {MAX_TEXT} characters")
        if name == "classes" and name in values:
            several.append(value)
        elif name in values:
            raise _invalid(written, f"option '{name}' is given twice; give it once")
        else:
            values[name] = value
    if several:
        values["classes"] = [values["classes"], *several]
    try:
        fields = OptionFields.model_validate(values)
    except ValidationError as error:
        found = [
            FieldError(_pointer(e["loc"]), _complaint(e["loc"][0], e["input"], e["msg"]))
            for e in error.errors(include_url=False)
        ]
        raise InvalidOption("; ".join(e.detail for e in found), errors=found) from error
    return DetectOptions(
        model=fields.model,
        score_threshold=fields.score_threshold,
        iou_threshold=fields.iou_threshold,
        max_detections=fields.max_detections,
        classes=fields.classes,
        class_agnostic_nms=fields.class_agnostic_nms,
        mask_format=fields.mask_format,
        timeout_s=None if fields.timeout_ms is None else fields.timeout_ms / 1000,
        priority=fields.priority,
    )


def _complaint(name: int | str, value: object, message: str) -> str:
    # A value may be of any size and depth; a few characters of it tell the caller which it was.
    return f"{name}={reprlib.repr(value)}: {_reason(message)}"


def _invalid(name: str, detail: str) -> InvalidOption:
    return InvalidOption(detail, errors=[FieldError(_pointer((name,)), detail)])


def _pointer(path: Sequence[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _reason(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, [*OptionFields.model_fields, *ALIASES], n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; options are: {', '.join(OptionFields.model_fields)}"
