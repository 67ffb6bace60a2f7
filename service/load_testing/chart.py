"""A chart: axes with ticks and units, lines and dots over them, a legend. Gives shapes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.load_testing.drawing import Dot, Line, Point, Shape, Text

_GRID, _AXIS, _FAINT_TEXT, _DARK_TEXT = "#e4e4e4", "#555555", "#555555", "#222222"

#: Width of a letter of the typeface on average, as a part of its size.
_LETTER_WIDTH = 0.58


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, evenly or (`is_log`) by ratios; `title` has the unit.

    `labels` stand for ticks of its own choice where they are given: values and their words.
    """

    title: str
    low: float
    high: float
    is_log: bool = False
    labels: Sequence[tuple[float, str]] = ()

    @classmethod
    def over(cls, title: str, values: Iterable[float], *, is_log: bool = False) -> "Axis":
        """An axis that holds all finite values: from 0, or with `is_log` from below the least."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        most = max(known, default=1.0)
        if not is_log:
            return cls(title, 0.0, most * 1.05 if most > 0 else 1.0)
        least = min(known, default=most)
        return cls(title, least / 1.3, max(most * 1.3, least * 4), is_log=True)

    def part(self, value: float) -> float:
        """Where on the axis a value stands, 0 to 1."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within, with their words."""
        if self.labels:
            return list(self.labels)
        values = self._log_values() if self.is_log else self._even_values()
        return [(value, f"{value:,.6g}") for value in values]

    def _even_values(self) -> list[float]:
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)]

    def _log_values(self) -> list[float]:
        lowest, highest = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        # Over many powers of ten only they themselves have room.
        factors = (1, 2, 5) if highest - lowest <= 4 else (1,)
        values = [
            factor * 10.0**power for power in range(lowest, highest + 1) for factor in factors
        ]
        return [value for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Series:
    """Values over x, with a line between them if `has_line`, with dots if they have a radius."""

    name: str
    points: Sequence[Point]
    colour: str
    is_dashed: bool = False
    has_line: bool = True
    dot_radius: float = 3.0


@dataclass(frozen=True)
class Mark:
    """A level on the y axis that matters, with a word for it."""

    value: float
    name: str


@dataclass(frozen=True)
class Chart:
    """A chart at `left`, `top`, with room for its titles inside `width` and `height`."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    marks: Sequence[Mark] = ()


def shapes_of(chart: Chart, left: float, top: float, width: float, height: float) -> list[Shape]:
    """The chart, drawn into a place of that size."""
    inner_left, inner_right = left + 64, left + width - 14
    legend, legend_bottom = _legend(chart.series, inner_left, top + 38, inner_right)
    frame = _Frame(chart, inner_left, legend_bottom + 18, inner_right, top + height - 48)
    shapes: list[Shape] = [Text(chart.title, (inner_left, top + 14), 14, is_bold=True)]
    shapes += legend
    shapes += frame.axes(left)
    for mark in chart.marks:
        shapes += frame.mark_line(mark)
    for series in chart.series:
        shapes += frame.series(series)
    for mark in chart.marks:
        shapes += frame.mark_name(mark)
    return shapes


class _Frame:
    """Where values stand between the axes."""

    def __init__(self, chart: Chart, left: float, top: float, right: float, bottom: float) -> None:
        self._chart = chart
        self._left, self._top, self._right, self._bottom = left, top, right, bottom

    def _at(self, x: float, y: float) -> Point:
        across, up = self._chart.x.part(x), self._chart.y.part(y)
        return (
            self._left + across * (self._right - self._left),
            self._bottom - up * (self._bottom - self._top),
        )

    def axes(self, outer_left: float) -> list[Shape]:
        """Grid, ticks and titles."""
        left, top, right, bottom = self._left, self._top, self._right, self._bottom
        x_axis, y_axis = self._chart.x, self._chart.y
        shapes: list[Shape] = []
        for value, word in y_axis.ticks():
            y = bottom - y_axis.part(value) * (bottom - top)
            shapes.append(Line([(left, y), (right, y)], _GRID))
            shapes.append(Text(word, (left - 7, y + 4), 11.5, "end", _FAINT_TEXT))
        for value, word in x_axis.ticks():
            x = left + x_axis.part(value) * (right - left)
            shapes.append(Line([(x, bottom), (x, bottom + 5)], _AXIS))
            shapes.append(Text(word, (x, bottom + 19), 11.5, "middle", _FAINT_TEXT))
        shapes.append(Line([(left, top), (left, bottom), (right, bottom)], _AXIS))
        middle = ((left + right) / 2, bottom + 40)
        shapes.append(Text(x_axis.title, middle, 12, "middle", _DARK_TEXT))
        upright = (outer_left + 14, (top + bottom) / 2)
        shapes.append(Text(y_axis.title, upright, 12, "middle", _DARK_TEXT, is_turned=True))
        return shapes

    def mark_line(self, mark: Mark) -> list[Shape]:
        """A dashed line across; nothing where it is off the axis."""
        y = self._height(mark)
        ends = [(self._left, y), (self._right, y)]
        return [Line(ends, _AXIS, 1.2, is_dashed=True)] if math.isfinite(y) else []

    def mark_name(self, mark: Mark) -> list[Shape]:
        """Its word, over everything."""
        y = self._height(mark)
        place = (self._left + 6, y - 6)
        return [Text(mark.name, place, 11.5, has_halo=True)] if math.isfinite(y) else []

    def _height(self, mark: Mark) -> float:
        part = self._chart.y.part(mark.value)
        return self._bottom - part * (self._bottom - self._top) if 0 <= part <= 1 else math.nan

    def series(self, series: Series) -> list[Shape]:
        """Its line, then its dots."""
        finite = [(x, y) for x, y in series.points if math.isfinite(y)]
        places = [self._at(x, y) for x, y in finite]
        shapes: list[Shape] = []
        if series.has_line and len(places) > 1:
            shapes.append(Line(places, series.colour, 2.0, series.is_dashed))
        if series.dot_radius:
            x_title = self._chart.x.title
            shapes += [
                Dot(
                    place,
                    series.dot_radius,
                    series.colour,
                    f"{series.name}: {y:.4g} at {x:.4g} ({x_title})",
                )
                for place, (x, y) in zip(places, finite, strict=True)
            ]
        return shapes


def _legend(
    series: Sequence[Series], left: float, y: float, right: float
) -> tuple[list[Shape], float]:
    """Names of the series from `left` on, in as many rows as they need, and the last one's y."""
    shapes: list[Shape] = []
    x = left
    for each in series:
        width = 26 + len(each.name) * 12 * _LETTER_WIDTH
        if x + width > right and x > left:
            x, y = left, y + 18
        if each.has_line:
            shapes.append(Line([(x, y - 4), (x + 20, y - 4)], each.colour, 2.0, each.is_dashed))
        else:
            shapes.append(Dot((x + 10, y - 4), 4, each.colour))
        shapes.append(Text(each.name, (x + 26, y), 12))
        x += width + 16
    return shapes, y
