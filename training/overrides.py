"""Settings by text, as `--set optimizer.lr=0.002` gives them. Torch-free.

A path names fields of the configuration's dataclasses; stages go by name or number. What a field
takes follows from its annotation.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, NoReturn, get_args, get_origin

from model.nearest import nearest_hint, nearest_names
from training.config import StageConfig, TrainConfig
from training.config_json import (
    SettingError,
    annotations,
    from_json,
    joined,
    to_json,
    without_none,
)

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

#: Says of an optional group that it is wanted, with its defaults.
_DEFAULT = "default"


def apply_overrides(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """`config` with each `path=value` in turn, checked as a whole at the end.

    `none` empties what may be empty; `default` gives an optional group (`stages.0.mosaic`) its
    defaults. Raises SettingError, and ValueError for values that cannot be trained with.
    """
    tree = to_json(config)
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not path:
            raise SettingError(
                f"'{assignment}' sets nothing: write it as key=value, such as optimizer.lr=0.002"
            )
        _assign(tree, path, text)
    return from_json(tree)


def _assign(tree: dict[str, Any], path: str, text: str) -> None:
    if path in ("recipe", "model.name"):
        raise SettingError(f"{path} is chosen with --recipe, and cannot be set")
    holder, key, annotation = _find(tree, path)
    kind, optional = without_none(annotation)
    if optional and text.lower() == "none":
        holder[key] = None
    elif _is_group(kind) and optional:
        if text.lower() != _DEFAULT:
            raise SettingError(
                f"{path} is a group: set it to '{_DEFAULT}' or 'none', or one of its settings "
                f"({', '.join(_children(kind, path))})"
            )
        holder[key] = _defaults(kind)
    elif _is_group(kind) or _is_stages(kind):
        inside = ", ".join(_siblings(kind, holder[key], path))
        raise SettingError(f"{path} is a group, set what is in it one by one: {inside}")
    else:
        holder[key] = _parsed(kind, text, path, optional=optional)


def _find(tree: dict[str, Any], path: str) -> tuple[Any, Any, Any]:
    """The dictionary or list that holds the setting, its key there, and its annotation."""
    holder: Any = {"": tree}
    key: Any = ""
    annotation: Any = TrainConfig
    walked = ""
    for part in path.split("."):
        holder = holder[key]
        kind, _ = without_none(annotation)
        if _is_group(kind) and not holder:
            raise SettingError(
                f"{path} cannot be set while {walked} is none: set {walked}={_DEFAULT} before it"
            )
        child = _child(kind, holder, part)
        if child is None:
            _refuse(tree, path, list(_siblings(kind, holder, walked)))
        key, annotation = child
        walked = joined(walked, part)
    return holder, key, annotation


def _child(kind: Any, node: Any, part: str) -> tuple[Any, Any] | None:
    """Key and annotation of a field or stage; None where there is no such one."""
    if _is_group(kind) and part in annotations(kind):
        return part, annotations(kind)[part]
    if _is_stages(kind) and (position := _stage_position(node, part)) is not None:
        return position, StageConfig
    return None


def _refuse(tree: dict[str, Any], path: str, siblings: list[str]) -> NoReturn:
    """An unknown setting: names the one of that last name, or the nearest, or those beside it."""
    known = [name for name in _paths(TrainConfig, tree, "") if name != "recipe"]
    last = path.rpartition(".")[2]
    namesakes = [name for name in known if name.rpartition(".")[2] == last]
    if namesakes:
        near = nearest_names(path, namesakes, cutoff=0)
        hint = f"; did you mean {' or '.join(repr(each) for each in near)}?"
    else:
        hint = nearest_hint(path, known if nearest_names(path, known) else siblings or known)
    raise SettingError(f"unknown setting '{path}'{hint}")


def _siblings(kind: Any, node: Any, path: str) -> Iterator[str]:
    """The paths of what a group has, groups in it included."""
    if _is_group(kind):
        yield from _children(kind, path)
    elif _is_stages(kind):
        yield from (joined(path, stage["name"]) for stage in node)


def _children(kind: type, path: str) -> list[str]:
    return [joined(path, name) for name in annotations(kind) if joined(path, name) != "recipe"]


def _paths(annotation: Any, node: Any, path: str) -> Iterator[str]:
    """The full paths of all settings below, those of groups that are none included."""
    kind, optional = without_none(annotation)
    if _is_stages(kind):
        for stage in node:
            yield from _paths(StageConfig, stage, joined(path, stage["name"]))
    elif _is_group(kind):
        if optional:
            yield path
        for name, inner in annotations(kind).items():
            yield from _paths(inner, node[name] if node else None, joined(path, name))
    else:
        yield path


def _stage_position(stages: list[dict[str, Any]], part: str) -> int | None:
    names = [stage["name"] for stage in stages]
    if part in names:
        return names.index(part)
    return int(part) if part.isdecimal() and int(part) < len(stages) else None


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def _is_stages(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[0] is StageConfig


def _defaults(kind: type) -> dict[str, Any]:
    value = kind()
    return {name: getattr(value, name) for name in annotations(kind)} | {
        name: list(getattr(value, name))
        for name, inner in annotations(kind).items()
        if get_origin(inner) is tuple
    }


def _parsed(kind: Any, text: str, path: str, *, optional: bool) -> Any:
    try:
        return _read(kind, text)
    except ValueError as error:
        expected, example = _expectation(kind)
        none = ", or none" if optional else ""
        raise SettingError(
            f"{path} takes {expected}{none} (for example {path}={example}), not '{text}'"
        ) from error


def _read(kind: Any, text: str) -> Any:
    """The value as JSON has it; a ValueError where the text is none."""
    if get_origin(kind) is tuple:
        return _read_list(get_args(kind), text)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError
        return text
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ValueError
        return _WORDS[text.lower()]
    if kind is str and not text:
        raise ValueError
    value = kind(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value


def _read_list(kinds: tuple[Any, ...], text: str) -> list[Any]:
    if kinds == (int, int):  # a size: 416x640, or 416 for both sides
        sides = text.lower().replace("x", ",").split(",")
        parts = sides * 2 if len(sides) == 1 else sides
    else:
        parts = [part.strip() for part in text.split(",")] if text else []
    if kinds[-1] is not Ellipsis and len(parts) != len(kinds):
        raise ValueError
    return [_read(kinds[0], part) for part in parts]


def _expectation(kind: Any) -> tuple[str, str]:
    """What a setting of that kind takes, in words, and an example."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return f"one of {', '.join(choices)}", choices[-1]
    if get_origin(kind) is tuple:
        return {
            (int, int): ("height x width in pixels, or one number for both", "416x640"),
            (float, float): ("two numbers with a comma between them", "0.5,2.0"),
            (str, ...): ("names with commas between them", "ship,plane"),
        }[get_args(kind)]
    return {
        bool: ("true or false", "true"),
        int: ("a whole number", "20"),
        float: ("a number", "0.5"),
        str: ("a text", "name"),
    }[kind]
