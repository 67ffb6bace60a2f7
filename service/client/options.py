"""What a detection may be asked for, under the names of the HTTP interface."""

from collections.abc import Sequence
from typing import Literal, TypedDict

MaskFormat = Literal["none", "rle", "polygon", "png"]
Priority = Literal["high", "normal", "low"]

#: Options as they are sent: names and text, a name perhaps more than once.
Fields = tuple[tuple[str, str], ...]


class DetectOptions(TypedDict, total=False):
    """Keyword arguments of a detection; what is left out or None is the model's own choice.

    `classes` are names or ids; a text may hold several, separated by commas.
    """

    model: str | None
    score_threshold: float | None
    iou_threshold: float | None
    max_detections: int | None
    classes: str | Sequence[str | int] | None
    class_agnostic_nms: bool | None
    mask_format: MaskFormat | None
    priority: Priority | None


def detect_options(  # noqa: PLR0913 - one parameter for each option
    *,
    model: str | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    classes: str | Sequence[str | int] | None = None,
    class_agnostic_nms: bool | None = None,
    mask_format: MaskFormat | None = None,
    priority: Priority | None = None,
) -> Fields:
    """The options that are given, as text. Their values are for the server to judge.

    Raises ValueError for `classes` without any: left out, it would mean all of them.
    """
    one_each = {
        "model": model,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
        "class_agnostic_nms": class_agnostic_nms,
        "mask_format": mask_format,
        "priority": priority,
    }
    fields = [(name, _text(value)) for name, value in one_each.items() if value is not None]
    if classes is not None:
        names = [classes] if isinstance(classes, str) else [str(name) for name in classes]
        if not any(names):
            raise ValueError("classes is empty; name some, or leave it out for all of them")
        fields += [("classes", name) for name in names]
    return tuple(fields)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
