"""A configuration as JSON and back, exactly; and what two of them differ in. Torch-free.

The annotations of the dataclasses say what is allowed where, here and for `--set`
(`training.overrides`).
"""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, cast, get_args, get_origin, get_type_hints

from training.config import StageConfig, TrainConfig


class SettingError(ValueError):
    """A setting that there is not, or a value that it cannot have."""


def to_json(config: TrainConfig) -> dict[str, Any]:
    """`config` as what `json` writes; `from_json` gives an equal one back."""
    return cast(dict[str, Any], _plain(config))


def from_json(tree: object) -> TrainConfig:
    """The configuration that `to_json` was given.

    Raises SettingError for a setting that is missing, unknown, or of another type, and ValueError
    for values that cannot be trained with.
    """
    return cast(TrainConfig, _value(TrainConfig, tree, ""))


def differences(before: TrainConfig, after: TrainConfig) -> list[str]:
    """One line for each setting that differs: `optimizer.lr: 0.004 -> 0.002`."""
    return list(_differences(before, after, ""))


def assignments_of(config: TrainConfig) -> list[str]:
    """Every setting as `--set` takes it: `optimizer.lr=0.004`."""
    return list(_assignments(config, ""))


@lru_cache
def annotations(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name, in order."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def without_none(annotation: Any) -> tuple[Any, bool]:
    """The annotation without `| None`, and whether it had that."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    rest = [each for each in get_args(annotation) if each is not NoneType]
    assert len(rest) == 1
    return rest[0], True


def shown(value: object) -> str:
    """A value as `--set` takes it, and a group of them in brackets."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(shown(each) for each in value)
    if is_dataclass(value):
        parts = (f"{each.name}={shown(getattr(value, each.name))}" for each in fields(value))
        return f"({', '.join(parts)})"
    return str(value)


def joined(path: str, name: object) -> str:
    """`path.name`, or the name alone at the top."""
    return f"{path}.{name}" if path else str(name)


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def _value(annotation: Any, tree: object, path: str) -> object:
    kind, optional = without_none(annotation)
    if tree is None and optional:
        return None
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, tree, path)
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), tree, path)
    if get_origin(kind) is Literal:
        fits = tree in get_args(kind)
    elif kind is float:
        # `type` and not `isinstance`: a truth value is an int, too.
        fits = type(tree) in (int, float) and math.isfinite(cast(float, tree))
    else:
        fits = type(tree) is kind
    if not fits:
        raise SettingError(f"{path} cannot be {tree!r}")
    return float(cast(float, tree)) if kind is float else tree


def _dataclass(kind: type, tree: object, path: str) -> object:
    if not isinstance(tree, dict):
        raise SettingError(f"{path or 'a configuration'} must be an object, not {tree!r}")
    known = annotations(kind)
    for name in tree:
        if name not in known:
            raise SettingError(f"{joined(path, name)} is no setting of this version")
    for name in known:
        if name not in tree:
            raise SettingError(f"{joined(path, name)} is missing")
    return kind(**{name: _value(known[name], tree[name], joined(path, name)) for name in known})


def _tuple(kinds: tuple[Any, ...], tree: object, path: str) -> tuple[object, ...]:
    repeated = kinds[-1] is Ellipsis
    if not isinstance(tree, list) or (not repeated and len(tree) != len(kinds)):
        wanted = "a list" if repeated else f"a list of {len(kinds)}"
        raise SettingError(f"{path} must be {wanted}, not {tree!r}")
    each_kind = (kinds[0],) * len(tree) if repeated else kinds
    return tuple(
        _value(kind, value, joined(path, position))
        for position, (kind, value) in enumerate(zip(each_kind, tree, strict=True))
    )


def _assignments(value: object, path: str) -> Iterator[str]:
    if _are_stages(value):
        for stage in value:
            yield from _assignments(stage, joined(path, stage.name))
    elif is_dataclass(value):
        for each in fields(value):
            # They come with the recipe.
            inner, place = getattr(value, each.name), joined(path, each.name)
            if place in ("recipe", "model.name"):
                continue
            _, optional = without_none(annotations(type(value))[each.name])
            if optional and is_dataclass(inner):
                # A recipe may be without the group.
                yield f"{place}=default"
            yield from _assignments(inner, place)
    else:
        yield f"{path}={shown(value)}"


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    if _are_stages(before) and _are_stages(after) and len(before) == len(after):
        for position, (ours, theirs) in enumerate(zip(before, after, strict=True)):
            name = ours.name if ours.name == theirs.name else position
            yield from _differences(ours, theirs, joined(path, name))
    elif is_dataclass(before) and type(before) is type(after):
        for each in fields(before):
            ours, theirs = getattr(before, each.name), getattr(after, each.name)
            yield from _differences(ours, theirs, joined(path, each.name))
    elif before != after:
        yield f"{path}: {shown(before)} -> {shown(after)}"


def _are_stages(value: Any) -> TypeGuard[tuple[StageConfig, ...]]:
    return isinstance(value, tuple) and all(isinstance(each, StageConfig) for each in value)
