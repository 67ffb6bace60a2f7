"""Elements of inline SVG, and the axes that charts share. Everything given is escaped.

Colours come from the page's style sheet, by class, so that charts follow its light and dark.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike

#: Measures of a chart in its own units; wide enough for text of 13 to be legible on a phone.
WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 66, 20, 12, 46


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element. Attributes that are None are left out; `class_` is class, `_` stands for `-`.

    >>> element("text", "a < b", class_="tick", stroke_width=2)
    Markup('<text class="tick" stroke-width="2">a &lt; b</text>')
    """
    written = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), number(value))
        for key, value in attributes.items()
        if value is not None
    ]
    inner = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(written), inner)


def number(value: object) -> str:
    """A number as short as a tenth of a pixel allows; anything else as text."""
    if isinstance(value, float | np.floating):
        return f"{value:.1f}".removesuffix(".0")
    return str(value)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; `title` names what is shown, with its unit."""

    title: str
    low: float
    high: float

    @classmethod
    def around(cls, title: str, values: Iterable[ArrayLike], *, low: float | None = None) -> "Axis":
        """An axis that holds all values, to round numbers; 0 to 1 where there is none."""
        all_values = np.concatenate([np.zeros(0), *(np.ravel(each) for each in values)])
        all_values = all_values[np.isfinite(all_values)]
        if not len(all_values):
            return cls(title, 0, 1)
        least = float(all_values.min()) if low is None else low
        most = float(all_values.max())
        if most <= least:
            most = least + (abs(least) or 1)
        step = _step(most - least)
        return cls(title, math.floor(least / step) * step, math.ceil(most / step) * step)

    def ticks(self) -> list[float]:
        """Round numbers within, about five."""
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [each * step for each in range(first, last + 1)]


def _step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten, about a fifth of the span."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


class Frame:
    """Where values stand in a chart, and its axes."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self.x_axis = x
        self.y_axis = y

    def x(self, value: float) -> float:
        """Where a value stands across."""
        part = (value - self.x_axis.low) / (self.x_axis.high - self.x_axis.low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value stands down."""
        part = (value - self.y_axis.low) / (self.y_axis.high - self.y_axis.low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> Markup:
        """Grid lines, ticks and titles of both axes."""
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts: list[Markup] = []
        for value in self.y_axis.ticks():
            y = self.y(value)
            parts.append(element("path", class_="grid", d=f"M{LEFT} {number(y)}H{right}"))
            parts.append(_text(tick_text(value), LEFT - 7, y + 4.5, "tick end"))
        for value in self.x_axis.ticks():
            x = self.x(value)
            parts.append(element("path", class_="axis", d=f"M{number(x)} {bottom}v5"))
            parts.append(_text(tick_text(value), x, bottom + 19.0, "tick middle"))
        parts.append(element("path", class_="axis", d=f"M{LEFT} {bottom}H{right}"))
        parts.append(_text(self.x_axis.title, (LEFT + right) / 2, HEIGHT - 7.0, "title middle"))
        turned = f"translate(14 {number((TOP + bottom) / 2)}) rotate(-90)"
        title = element("text", self.y_axis.title, class_="title middle", transform=turned)
        return Markup("").join([*parts, title])


def tick_text(value: float) -> str:
    """A number on an axis: 0.25, 1.5k, 2e-05."""
    if abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:.4g}M"
    return f"{value / 1000:.4g}k" if abs(value) >= 10_000 else f"{value:.4g}"


def drawing(title: str, *children: str, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """An SVG that is as wide as its place, with a name for those who cannot see it."""
    box = f"0 0 {number(width)} {number(height)}"
    return element("svg", *children, viewBox=box, role="img", aria_label=title)


def figure(title: str, picture: Markup, *, legend: str = "", note: str = "") -> Markup:
    """A drawing under its title, with what explains it beneath."""
    remark = element("p", note, class_="note") if note else ""
    return element("figure", element("figcaption", title), picture, legend, remark, class_="chart")


def tooltip(text: str) -> Markup:
    """What a mouse that rests on the element is told."""
    return element("title", escape(text))


def _text(text: str, x: float, y: float, class_: str) -> Markup:
    return element("text", text, x=x, y=y, class_=class_)
