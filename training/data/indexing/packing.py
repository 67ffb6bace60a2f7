"""The columns of an index while they grow, and as arrays.

Lists are kept as one array of all their items and one of offsets: item list i lies between
offsets i and i + 1.
"""

from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.data.formats.records import InstanceRecord


def _offsets() -> "array[int]":
    return array("q", [0])


@dataclass(frozen=True, eq=False)
class PathColumns:
    """Texts: their bytes and offsets."""

    text: bytearray = field(default_factory=bytearray)
    offsets: "array[int]" = field(default_factory=_offsets)

    def add(self, text: str) -> None:
        """One text more."""
        self.text.extend(text.encode("utf-8", "surrogateescape"))
        self.offsets.append(len(self.text))


@dataclass(frozen=True, eq=False)
class ImageColumns:
    """One row per image; image i owns the instances between its offsets."""

    paths: PathColumns = field(default_factory=PathColumns)
    sizes: "array[int]" = field(default_factory=lambda: array("i"))
    ids: "array[int]" = field(default_factory=lambda: array("q"))
    instance_offsets: "array[int]" = field(default_factory=_offsets)


@dataclass(frozen=True, eq=False)
class InstanceColumns:
    """One row per instance; instance i owns the polygons and the run lengths between offsets."""

    boxes: "array[float]" = field(default_factory=lambda: array("f"))
    labels: "array[int]" = field(default_factory=lambda: array("i"))
    flags: bytearray = field(default_factory=bytearray)
    areas: "array[float]" = field(default_factory=lambda: array("d"))
    ids: "array[int]" = field(default_factory=lambda: array("q"))
    points: "array[float]" = field(default_factory=lambda: array("f"))
    point_offsets: "array[int]" = field(default_factory=_offsets)
    polygon_offsets: "array[int]" = field(default_factory=_offsets)
    run_lengths: bytearray = field(default_factory=bytearray)
    run_length_offsets: "array[int]" = field(default_factory=_offsets)

    def add(self, number: int, box: tuple[float, ...], label: int, flags: int, area: float) -> None:
        """One instance more, without its outline."""
        self.ids.append(number)
        self.boxes.extend(box)
        self.labels.append(label)
        self.flags.append(flags)
        self.areas.append(area)

    def add_outline(self, instance: InstanceRecord) -> None:
        """The outline of the instance that was added last."""
        for polygon in instance.polygons:
            self.points.frombytes(np.ascontiguousarray(polygon, np.float32).tobytes())
            self.point_offsets.append(len(self.points) // 2)
        self.polygon_offsets.append(len(self.point_offsets) - 1)
        self.run_lengths.extend(instance.run_lengths or b"")
        self.run_length_offsets.append(len(self.run_lengths))


def packed_paths(columns: PathColumns) -> dict[str, NDArray]:
    """The arrays of texts, by name."""
    return {"path_text": _array(columns.text), "path_offsets": _array(columns.offsets)}


def packed(
    images: ImageColumns, instances: InstanceColumns, box_size: int, *, with_outlines: bool
) -> dict[str, NDArray]:
    """The arrays of an index, by name; `box_size` is how many numbers a box has."""
    arrays = packed_paths(images.paths) | {
        "image_sizes": _array(images.sizes).reshape(-1, 2),
        "image_ids": _array(images.ids),
        "instance_offsets": _array(images.instance_offsets),
        "boxes": _array(instances.boxes).reshape(-1, box_size),
        "labels": _array(instances.labels),
        "flags": _array(instances.flags),
        "areas": _array(instances.areas),
        "annotation_ids": _array(instances.ids),
    }
    if with_outlines:
        arrays |= {
            "points": _array(instances.points).reshape(-1, 2),
            "point_offsets": _array(instances.point_offsets),
            "polygon_offsets": _array(instances.polygon_offsets),
            "run_lengths": _array(instances.run_lengths),
            "run_length_offsets": _array(instances.run_length_offsets),
        }
    return arrays


def _array(column: "array[int] | array[float] | bytearray") -> NDArray:
    """A view, so that no column is in memory twice."""
    return np.asarray(memoryview(column))


def text_at(text: NDArray[np.uint8], offsets: NDArray[np.int64], position: int) -> str:
    """The text at a position of `PathColumns`' arrays."""
    start, end = offsets[position], offsets[position + 1]
    return text[start:end].tobytes().decode("utf-8", "surrogateescape")
