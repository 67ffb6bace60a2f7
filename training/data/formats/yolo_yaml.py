"""YOLO's `data.yaml`: where the images of each split lie, and the names of the classes."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from model.checkpoints.class_names import checked_classes
from training.data.formats.checks import broken


@dataclass(frozen=True)
class YoloYaml:
    """What the file says; images are folders, or text files that list images."""

    file: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]


def read_yolo_yaml(file: Path) -> YoloYaml:
    """Read and check it.

    Raises BrokenData: no YAML, no names, or a split that lies nowhere.
    """
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise broken(file, f"no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise broken(file, "must be a mapping with 'names', 'train' and 'val'")
    root = file.parent / _place(file, "path", content.get("path") or "")
    return YoloYaml(
        file,
        _names(file, content),
        _images(file, root, "train", content.get("train")),
        _images(file, root, "val", content.get("val", content.get("valid"))),
    )


def _names(file: Path, content: dict[str, object]) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise broken(file, "'names' must number the classes from 0 without a gap")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise broken(file, "'names' must list the classes")
    for number, name in enumerate(names):
        if not isinstance(name, (str, int, float)):
            raise broken(file, f"the name of class {number} must be a text, not {_told(name)}")
    if "nc" in content and content["nc"] != len(names):
        stated = _told(content["nc"])
        raise broken(file, f"'nc' is {stated}, but 'names' lists {len(names)} classes")
    return named_classes(file, [str(name) for name in names])


def named_classes(file: Path, names: list[str]) -> tuple[str, ...]:
    """Names of classes that a file lists. Raises BrokenData: none, an empty one, one twice."""
    try:
        return checked_classes(names)
    except ValueError as error:
        raise broken(file, str(error)) from error


def _images(file: Path, root: Path, split: str, value: object) -> tuple[Path, ...]:
    if value is None:
        return ()
    places = value if isinstance(value, list) else [value]
    return tuple(_existing(file, root, split, _place(file, split, place)) for place in places)


def _place(file: Path, key: str, value: object) -> str:
    # YAML takes the names of some folders for numbers or dates.
    if isinstance(value, (list, dict, set)):
        raise broken(file, f"'{key}' must name a place, not {_told(value)}")
    return str(value)


def _told(value: object) -> str:
    """A value for a message. A few lines of YAML can stand for a list of billions."""
    is_many = isinstance(value, (list, dict, set))
    return f"a {type(value).__name__}" if is_many else str(value)[:40]


def _existing(file: Path, root: Path, split: str, place: str) -> Path:
    # `path` may be that of another machine, and exports say "../train/images" for a folder that
    # lies beside the file.
    for candidate in (root / place, file.parent / place, file.parent / place.lstrip("./")):
        # Not Path.exists, which raises for names that are too long.
        if os.path.exists(candidate):
            return candidate.resolve()
    raise broken(file, f"'{split}' names '{place}', which lies neither in {root} nor beside it")
