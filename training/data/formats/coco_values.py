"""The values of COCO's JSON, checked: boxes, areas, outlines. Each raises BadValue."""

import json
import math
from itertools import count
from typing import Any, TypeGuard

import numpy as np

from training.data.annotations import Floats
from training.data.formats.records import single_precision
from training.data.run_lengths import compressed

_NUMBERS = frozenset({int, float})


class BadValue(ValueError):
    """A value that cannot be used; the message reads on from the name of its entry."""


def box_of(value: object) -> tuple[float, float, float, float]:
    """COCO's (x, y, w, h) as xyxy."""
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(v) for v in value):
        raise BadValue(f"'bbox' must be four numbers, not {excerpt(value)}")
    x, y, width, height = (float(v) for v in value)
    return x, y, x + width, y + height


def area_of(value: object) -> float | None:
    """Square pixels, or None where the file does not say."""
    if value is None:
        return None
    if not _is_number(value):
        raise BadValue(f"'area' must be a number, not {excerpt(value)}")
    return float(value)


def segmentation_of(
    value: object, height: int, width: int
) -> tuple[tuple[Floats, ...], bytes | None]:
    """Polygons, or run lengths in their compressed form; neither where there is none."""
    if value is None or value == []:
        return (), None
    if isinstance(value, dict):
        if value.get("size") != [height, width]:
            size = f"{excerpt(value.get('size'))}, the image is [{height}, {width}]"
            raise BadValue(f"its run lengths have the size {size}")
        try:
            return (), compressed(value.get("counts"), height, width)
        except ValueError as error:
            raise BadValue(f"has {error}") from error
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise BadValue("'segmentation' must be a list of polygons or run lengths")
    return tuple(_polygon(number, polygon) for number, polygon in zip(count(1), value)), None


def _polygon(number: int, values: list[Any]) -> Floats:
    if not _NUMBERS.issuperset(map(type, values)):
        raise BadValue(f"polygon {number} must be a flat list of numbers")
    try:
        return single_precision(np.array(values, np.float64))
    except OverflowError:
        raise BadValue(f"polygon {number} has a coordinate beyond any image") from None


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number that an index can hold."""
    return type(value) is int and abs(value) < 2**63


def is_name(value: object) -> TypeGuard[str]:
    """Whether it is a text to call something by; JSON may hold halves of characters."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def crowd_of(value: object) -> bool:
    """Whether it is a crowd; files may leave it out."""
    if value is None or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    raise BadValue(f"'iscrowd' must be 0 or 1, not {excerpt(value)}")


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) is float or is_whole(value)


def is_side(value: object) -> bool:
    """Whether it is the height or width of an image, in whole pixels."""
    return _is_number(value) and math.isfinite(value) and value >= 1 and value == int(value)


def summary(numbers: list[int]) -> str:
    """Sorted numbers for a message: all of them, or how many from where to where."""
    if len(numbers) <= 10:
        return ", ".join(map(str, numbers))
    return f"{len(numbers)}, from {numbers[0]} to {numbers[-1]}"


def excerpt(value: object) -> str:
    """A value for a message, as the file has it, at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
