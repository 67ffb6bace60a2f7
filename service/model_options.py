"""What a request asks for, in terms of the model that answers. Pure."""

import difflib
from dataclasses import replace
from typing import TypeVar

from model.postprocess import SERVING_SETTINGS, PostprocessSettings
from model.repository import RepositoryModel
from service.detection import DetectOptions
from service.errors import FieldError, InvalidOption

Value = TypeVar("Value")


def postprocess_settings(source: RepositoryModel, options: DetectOptions) -> PostprocessSettings:
    """The model's thresholds, with what the request asks for in their place.

    Raises InvalidOption for classes that the model does not have.
    """
    thresholds = source.manifest.thresholds
    return replace(
        SERVING_SETTINGS[source.manifest.task],
        score_threshold=_first(options.score_threshold, thresholds.score),
        iou_threshold=_first(options.iou_threshold, thresholds.iou),
        max_detections=_first(options.max_detections, thresholds.max_detections),
        class_agnostic=options.class_agnostic_nms,
        class_ids=None if options.classes is None else _class_ids(source, options.classes),
    )


def _first(asked: Value | None, default: Value) -> Value:
    return default if asked is None else asked


def _class_ids(source: RepositoryModel, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Names or ids, as written by the caller, to ids."""
    names = source.manifest.classes
    ids_by_name = {name.casefold(): index for index, name in enumerate(names)}
    ids: list[int] = []
    for text in wanted:
        found = ids_by_name.get(text.casefold())
        if found is None and text.isdecimal() and len(text) < 10 and int(text) < len(names):
            found = int(text)
        if found is None:
            near = difflib.get_close_matches(text.casefold(), ids_by_name, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it has {_shortened(names)}"
            detail = f"model '{source.name}' has no class '{text}'{hint}"
            raise InvalidOption(detail, errors=[FieldError("/classes", detail)])
        ids.append(found)
    return tuple(ids)


def _shortened(names: tuple[str, ...]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
