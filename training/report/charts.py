"""Charts of lines and of columns, as figures of inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.report.svg import (
    BOTTOM,
    HEIGHT,
    TOP,
    Axis,
    Frame,
    drawing,
    element,
    figure,
    number,
    tick_text,
    tooltip,
)

#: So many lines have colours and dashes of their own, in the style sheet.
NUM_STYLES = 8

#: Points of one line that say their values.
_MAX_TOLD = 60

#: Lines of so few points have dots, so that one alone can be seen.
_MAX_DRAWN = 24


#: How a line is drawn.
Look = int | Literal["mean", "faint"]


@dataclass(frozen=True, eq=False)
class Line:
    """Values `y` over `x` [n]; where `y` is not finite the line is broken.

    `look` is a number below `NUM_STYLES`, or "mean" (strong) or "faint" (one of very many, not in
    the legend).
    """

    name: str
    x: NDArray[np.floating]
    y: NDArray[np.floating]
    look: Look


@dataclass(frozen=True)
class Mark:
    """A place on the x axis that matters, with a word for it."""

    x: float
    name: str


def line_chart(
    title: str,
    x: Axis,
    y: Axis,
    lines: Sequence[Line],
    marks: Sequence[Mark] = (),
    *,
    note: str = "",
) -> Markup:
    """A figure of lines over common axes, with their legend."""
    frame = Frame(x, y)
    # Faint lines lie below all others, whatever their order.
    ordered = sorted(lines, key=lambda line: line.look != "faint")
    drawn = [
        frame.axes(),
        *(_mark(frame, mark) for mark in marks),
        *(_line(frame, line) for line in ordered),
        *(_told(frame, line) for line in ordered if line.look != "faint"),
    ]
    named = [line for line in lines if line.look != "faint"]
    return figure(title, drawing(title, *drawn), legend=_legend(named), note=note)


def column_chart(
    title: str, x: Axis, y: Axis, columns: Sequence[tuple[str, str, NDArray[np.integer]]]
) -> Markup:
    """A figure of stacked columns that part the x axis evenly; where they do not fit, a mark tells.

    `columns` are names, classes of the style sheet and counts [n], the lowest first.
    """
    frame = Frame(x, y)
    width = (x.high - x.low) / len(columns[0][2])
    parts = [frame.axes()]
    below = np.zeros(len(columns[0][2]))
    for name, class_, values in columns:
        for place in np.flatnonzero(values):
            start = x.low + place * width
            said = f"{name}: {values[place]} from {tick_text(start)} to {tick_text(start + width)}"
            extent = (below[place], below[place] + values[place])
            parts.append(_column(frame, said, class_, (start, start + width), extent))
        below += values
    too_high = np.flatnonzero(below > y.high)
    parts += [_cut_off(frame, x.low + (place + 0.5) * width) for place in too_high]
    items = [
        element("li", element("span", class_=f"swatch {class_}"), name)
        for name, class_, _ in columns
    ]
    legend = element("ul", *items, class_="legend")
    note = "\u25b2: more than the chart shows." if len(too_high) else ""
    return figure(title, drawing(title, *parts), legend=legend, note=note)


def _column(
    frame: Frame, said: str, class_: str, x: tuple[float, float], y: tuple[float, float]
) -> Markup:
    left, right = frame.x(x[0]) + 0.5, frame.x(x[1]) - 0.5
    bottom, top = (frame.y(min(value, frame.y_axis.high)) for value in y)
    return element(
        "rect",
        tooltip(said),
        class_=f"column {class_}",
        x=left,
        y=top,
        width=right - left,
        height=bottom - top,
    )


def _cut_off(frame: Frame, x: float) -> Markup:
    return element("path", class_="cut-off", d=f"M{number(frame.x(x))} {TOP - 8}l5 7h-10z")


def spark_line(name: str, x: NDArray[np.floating], y: NDArray[np.floating]) -> Markup:
    """A curve in the unit square, small enough for a row of a table."""
    points = [f"{number(1 + 62 * a)} {number(25 - 24 * b)}" for a, b in zip(x, y, strict=True)]
    path = element("path", class_="spark-line", d="M" + "L".join(points)) if points else ""
    ground = element("path", class_="grid", d="M1 1V25H63")
    return element(
        "svg", tooltip(name), ground, path, viewBox="0 0 64 26", class_="spark", aria_label=name
    )


def _line(frame: Frame, line: Line) -> Markup:
    pieces: list[str] = []
    pen = "M"
    for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True):
        if not np.isfinite(y):
            pen = "M"
            continue
        pieces.append(f"{pen}{number(frame.x(x))} {number(frame.y(y))}")
        pen = "L"
    return element("path", tooltip(line.name), class_=f"line line-{line.look}", d="".join(pieces))


def _told(frame: Frame, line: Line) -> Markup:
    """Places on the line that a mouse can rest on; of a few points all, and drawn."""
    if not len(line.x):
        return Markup("")
    some = np.unique(np.linspace(0, len(line.x) - 1, min(len(line.x), _MAX_TOLD)).astype(int))
    is_drawn = len(line.x) <= _MAX_DRAWN
    spots = [
        element(
            "circle",
            tooltip(f"{line.name}: {tick_text(y)} at {frame.x_axis.title} {tick_text(x)}"),
            cx=frame.x(x),
            cy=frame.y(y),
            r=3 if is_drawn else 5,
        )
        for x, y in zip(line.x[some].tolist(), line.y[some].tolist(), strict=True)
        if np.isfinite(y)
    ]
    return element("g", *spots, class_=f"spots{' drawn' if is_drawn else ''} spots-{line.look}")


def _mark(frame: Frame, mark: Mark) -> Markup:
    x = frame.x(mark.x)
    to_left = x > frame.x((frame.x_axis.low + frame.x_axis.high) / 2)
    return element(
        "g",
        element("path", class_="mark", d=f"M{number(x)} {TOP}V{HEIGHT - BOTTOM}"),
        element(
            "text",
            mark.name,
            class_="tick end" if to_left else "tick",
            x=x - 5 if to_left else x + 5,
            y=TOP + 10,
        ),
    )


def _legend(lines: Sequence[Line]) -> Markup:
    items = [
        element(
            "li",
            element(
                "svg",
                element("path", class_=f"line line-{line.look}", d="M1 6H29"),
                viewBox="0 0 30 12",
                class_="swatch-line",
                aria_hidden="true",
            ),
            line.name,
        )
        for line in lines
    ]
    return element("ul", *items, class_="legend")
