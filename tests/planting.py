"""How faults are planted into data sets, and what is to be found of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import Task

Content = dict[str, list[dict[str, Any]]]
Plant = Callable[[Path], None]


@dataclass(frozen=True)
class Fault:
    """What is planted where, and as what it must be found: in a place that names `named`."""

    plant: Plant
    kind: str
    layout: str
    task: Task
    split: str
    named: str
    also: frozenset[str]


class Faults(dict[str, Fault]):
    """By name, each planted by a small function `plant_NAME` into the folder of a clean set."""

    def fault(
        self,
        kind: str,
        named: str,
        *,
        layout: str = "coco",
        task: Task = "detect",
        split: str = "train",
        also: tuple[str, ...] = (),
    ) -> Callable[[Plant], Plant]:
        """Registers a planting function; `also` are the kinds that cannot but come along."""

        def register(plant: Plant) -> Plant:
            name = plant.__name__.removeprefix("plant_")
            assert name not in self
            self[name] = Fault(plant, kind, layout, task, split, named, frozenset(also))
            return plant

        return register


def content_of(folder: Path, split: str = "train") -> tuple[Path, Content]:
    file = folder / "annotations" / f"instances_{split}.json"
    return file, json.loads(file.read_text("utf-8"))


def changed(folder: Path, change: Callable[[Content], None], split: str = "train") -> None:
    """Change COCO's JSON."""
    file, content = content_of(folder, split)
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def with_annotation(folder: Path, number: int = 5, **values: object) -> None:
    """Change values of the annotation of that id; None takes one away."""

    def change(content: Content) -> None:
        (entry,) = (each for each in content["annotations"] if each["id"] == number)
        entry.update(values)

    changed(folder, change)


def annotation(folder: Path, number: int = 5) -> dict[str, Any]:
    _, content = content_of(folder)
    (entry,) = (each for each in content["annotations"] if each["id"] == number)
    return entry


def copied_annotation(folder: Path, **values: object) -> None:
    """Annotation 5 once more, with these values changed, as 9001."""
    entry = annotation(folder) | {"id": 9001} | values
    changed(folder, lambda content: content["annotations"].append(entry))


def lines_of(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


def with_line(file: Path, line: str, *, instead_of: int | None = None) -> None:
    """Add a line at the end, or put it in place of another, counted from 0."""
    lines = lines_of(file)
    if instead_of is None:
        lines.append(line)
    else:
        lines[instead_of] = line
    file.write_text("".join(f"{each}\n" for each in lines), "utf-8")
