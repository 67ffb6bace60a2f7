"""Where the labels of a picture go: inside it, beside their object, not over one another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Labels cover at most this part of the picture; the weakest go without.
MAX_COVERED = 0.15

#: A label hides at most this sum of parts of objects, so half of one or a quarter of two.
MAX_HIDDEN = 0.5


@dataclass(frozen=True)
class Rectangle:
    """Whole pixels, at least one; `right` and `bottom` are excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.bottom - self.top

    def grown(self, margin: int) -> "Rectangle":
        """With `margin` more pixels on each side."""
        return Rectangle(
            self.left - margin, self.top - margin, self.right + margin, self.bottom + margin
        )

    def cut_to(self, width: int, height: int) -> "Rectangle":
        """The part within a picture; at its edge one pixel where there is none."""
        left, top = max(0, min(self.left, width - 1)), max(0, min(self.top, height - 1))
        right, bottom = min(self.right, width), min(self.bottom, height)
        return Rectangle(left, top, max(right, left + 1), max(bottom, top + 1))


@dataclass(frozen=True)
class Label:
    """A label's size, the object it stands for, and where it may stand (left, top), best first."""

    width: int
    height: int
    target: Rectangle
    choices: Sequence[tuple[int, int]]


def label_beside_box(width: int, height: int, box: Rectangle) -> Label:
    """Above the box, inside at its top, below, inside at its bottom; at the left or the right."""
    tops = (box.top - height, box.top, box.bottom, box.bottom - height)
    lefts = (box.left, box.right - width)
    return Label(width, height, box, [(left, top) for top in tops for left in lefts])


def label_beside_corners(
    width: int, height: int, bounds: Rectangle, corners: NDArray[np.float64]
) -> Label:
    """Over the highest of the corners [n, 2], under the lowest, or in the middle."""
    middle = corners.mean(axis=0) - (width / 2, height / 2)
    highest, lowest = int(corners[:, 1].argmin()), int(corners[:, 1].argmax())
    choices = [
        (corners[highest, 0] - width / 2, bounds.top - height),
        (corners[lowest, 0] - width / 2, bounds.bottom),
        (middle[0], middle[1]),
    ]
    return Label(width, height, bounds, [(round(left), round(top)) for left, top in choices])


def place_labels(
    labels: Sequence[Label], picture_width: int, picture_height: int
) -> list[Rectangle | None]:
    """A place for each label, None where there is no room.

    The first label chooses first: put that of the strongest detection first. Labels never overlap;
    among its free places each takes the one that hides least of the objects, its own included.
    """
    targets = np.array([_edges(label.target) for label in labels], np.int64).reshape(-1, 4)
    areas = (targets[:, 2] - targets[:, 0]) * (targets[:, 3] - targets[:, 1])
    taken = np.empty_like(targets)
    num_taken = 0
    room = MAX_COVERED * picture_width * picture_height
    places: list[Rectangle | None] = []
    for index, label in enumerate(labels):
        places.append(None)
        # The strongest gets a label in the smallest picture, too.
        if label.width * label.height > room and index > 0:
            continue
        choices = _places_within(label, picture_width, picture_height)
        choices = choices[~_shared(choices, taken[:num_taken]).any(axis=1)]
        if len(choices) == 0:
            continue
        hidden = (_shared(choices, targets) / areas).sum(axis=1)
        if hidden.min() > MAX_HIDDEN and index > 0:
            continue
        # In tenths, as a sliver is no reason to leave the usual place.
        best = choices[np.floor(10 * hidden).argmin()]
        places[index] = Rectangle(*best.tolist())
        taken[num_taken] = best
        num_taken += 1
        room -= label.width * label.height
    return places


def _places_within(label: Label, picture_width: int, picture_height: int) -> NDArray[np.int64]:
    """The choices that fit into the picture, moved sideways where that helps: [n, 4]."""
    rightmost = picture_width - label.width
    return np.array(
        [
            _edges(Rectangle(left, top, left + label.width, top + label.height))
            for left, top in ((max(0, min(left, rightmost)), top) for left, top in label.choices)
            if rightmost >= 0 and 0 <= top <= picture_height - label.height
        ],
        np.int64,
    ).reshape(-1, 4)


def _shared(some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels that `some` [n, 4] share with `others` [m, 4] (left, top, right, bottom): [n, m]."""
    first = np.maximum(some[:, None, :2], others[None, :, :2])
    last = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return np.maximum(last - first, 0).prod(axis=2)


def _edges(rectangle: Rectangle) -> tuple[int, int, int, int]:
    return rectangle.left, rectangle.top, rectangle.right, rectangle.bottom
