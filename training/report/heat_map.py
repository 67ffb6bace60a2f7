"""The confusion matrix as a picture, and its largest confusions as a list."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.report.svg import drawing, element, figure, tooltip

#: Of more classes only those that are confused most are drawn: more cells cannot be told apart.
MAX_CLASSES = 80

#: Up to so many classes, cells say their number.
_MAX_NUMBERED = 16

_SIDE_OF_FEW, _SIDE_OF_MANY = 46, 13
_LETTER_WIDTH = 6.4
_LONGEST_NAME = 22

_Ints = NDArray[np.int64]


class Confusion(NamedTuple):
    """How often instances of `there` were detected as `taken_for`, and of how many."""

    there: str
    taken_for: str
    num_times: int
    num_instances: int


def largest_confusions(
    matrix: _Ints, classes: Sequence[str], num_instances: _Ints, most: int
) -> list[Confusion]:
    """The pairs of different classes that were confused most often.

    `matrix` as `Judged.confusion` gives it; `num_instances` [classes] are to be found.
    """
    num_classes = len(classes)
    between = matrix[:num_classes, :num_classes].copy()
    np.fill_diagonal(between, 0)
    flat = between.ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    return [
        Confusion(
            str(classes[place // num_classes]),
            str(classes[place % num_classes]),
            int(flat[place]),
            int(num_instances[place // num_classes]),
        )
        for place in order[flat[order] > 0].tolist()
    ]


def heat_map(
    matrix: _Ints, classes: Sequence[str], *, background: tuple[str, str] | None = None
) -> Markup:
    """A figure of the matrix: rows are what is there, columns what was detected.

    A cell is the stronger, the larger its share of the row. `background` names a last row and a
    last column, where there are some.
    """
    matrix, classes, note = _most_confused(matrix, classes)
    side = _SIDE_OF_FEW if len(classes) <= _MAX_NUMBERED else _SIDE_OF_MANY
    rows, columns = [*classes], [*classes]
    if background is not None:
        rows.append(background[0])
        columns.append(background[1])
    margin = max(min(len(name), _LONGEST_NAME) for name in (*rows, *columns)) * _LETTER_WIDTH + 28
    parts = [
        *_cells(matrix, rows, columns, side=side, margin=margin),
        *_names(rows, columns, side=side, margin=margin),
    ]
    extent = margin + side * len(rows) + 4
    title = "Confusion matrix: what is there (rows) and what was detected (columns)"
    picture = drawing(title, *parts, width=extent, height=extent)
    # As large as drawn, and to be scrolled where that is wider than the screen.
    width = f"width: {max(extent, 320):.0f}px"
    scrolled = element("div", element("div", picture, style=width), class_="scrolled")
    return figure(title, scrolled, note=note)


def _most_confused(matrix: _Ints, classes: Sequence[str]) -> tuple[_Ints, Sequence[str], str]:
    if len(classes) <= MAX_CLASSES:
        return matrix, classes, ""
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    of_class = (mistakes.sum(axis=0) + mistakes.sum(axis=1))[: len(classes)]
    kept = np.sort(np.argsort(-of_class, kind="stable")[:MAX_CLASSES])
    places = np.append(kept, np.arange(len(classes), len(matrix)))
    note = f"The {MAX_CLASSES} classes with the most mistakes, of {len(classes)}."
    return matrix[np.ix_(places, places)], [str(classes[place]) for place in kept.tolist()], note


def _cells(
    matrix: _Ints, rows: Sequence[str], columns: Sequence[str], *, side: int, margin: float
) -> list[Markup]:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cells = [
        element("rect", class_="ground", x=margin, y=margin, width=side * len(rows),
                height=side * len(rows))
    ]  # fmt: skip
    for row, column in np.argwhere(matrix > 0).tolist():
        count, share = matrix[row, column], shares[row, column]
        is_right = row == column
        said = f"{rows[row]} → {columns[column]}: {count} ({share:.1%} of the row)"
        x, y = margin + column * side, margin + row * side
        cells.append(
            element(
                "rect",
                tooltip(said),
                class_="cell right" if is_right else "cell wrong",
                x=x + 0.5,
                y=y + 0.5,
                width=side - 1,
                height=side - 1,
                # The root lets rare confusions be seen beside frequent ones.
                fill_opacity=f"{0.12 + 0.88 * share**0.5:.2f}",
            )
        )
        if side == _SIDE_OF_FEW:
            strong = " strong" if share > 0.3 else ""
            cells.append(
                element("text", str(count), class_=f"count middle{strong}", x=x + side / 2,
                        y=y + side / 2 + 4.5)
            )  # fmt: skip
    return cells


def _names(
    rows: Sequence[str], columns: Sequence[str], *, side: int, margin: float
) -> list[Markup]:
    size = "name" if side == _SIDE_OF_FEW else "name small"
    names: list[Markup] = []
    for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
        middle = margin + (place + 0.5) * side
        names.append(
            element("text", tooltip(row), _short(row), class_=f"{size} end", x=margin - 6,
                    y=middle + 4)
        )  # fmt: skip
        turned = f"translate({middle + 4:.1f} {margin - 6:.1f}) rotate(-90)"
        names.append(element("text", tooltip(column), _short(column), class_=size,
                             transform=turned))  # fmt: skip
    names.append(element("text", "there ↓", class_="title", x=6, y=margin - 24))
    names.append(element("text", "detected →", class_="title", x=6, y=margin - 8))
    return names


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
