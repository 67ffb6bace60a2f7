"""Shapes on a white ground, as SVG or as PNG. Lengths are in CSS pixels, y points down."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

#: Pixels of the PNG for each CSS pixel: letters stay sharp on dense screens and on paper.
_PNG_SCALE = 2

#: OpenCV takes points in sixteenths of a pixel.
_SUBPIXEL_BITS = 4

#: Lengths of a dash and of the gap behind it.
_DASH, _GAP = 6.0, 4.0

#: Where letters are drawn in white for a halo, in pixels of the PNG.
_AROUND = [(x, y) for x in (-3, 0, 3) for y in (-3, 0, 3)]

_FONTS = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Through all points; `colour` is written #rrggbb."""

    points: Sequence[Point]
    colour: str
    width: float = 1.0
    is_dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A filled circle; `told` is what a mouse that rests on it is shown."""

    centre: Point
    radius: float
    colour: str
    told: str = ""


@dataclass(frozen=True)
class Text:
    """One line; `at` is where it is anchored on its base line. `is_turned` reads upwards.

    `has_halo` keeps it legible over lines.
    """

    text: str
    at: Point
    size: float = 12.0
    anchor: Literal["start", "middle", "end"] = "start"
    colour: str = "#222222"
    is_bold: bool = False
    is_turned: bool = False
    has_halo: bool = False


Shape = Line | Dot | Text


@dataclass(frozen=True)
class Drawing:
    """Shapes, the first one undermost, and a title for those who cannot see them."""

    width: int
    height: int
    title: str
    shapes: Sequence[Shape]


def svg_of(drawing: Drawing) -> str:
    """A document that needs nothing from anywhere."""
    size = f"{drawing.width} {drawing.height}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{drawing.width}" '
        f'height="{drawing.height}" role="img" font-family="{escape(_FONTS)}">',
        f"<title>{escape(drawing.title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *map(_svg_element, drawing.shapes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _svg_element(shape: Shape) -> str:
    if isinstance(shape, Line):
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.points)
        dashes = f' stroke-dasharray="{_DASH:g} {_GAP:g}"' if shape.is_dashed else ""
        return (
            f'<path d="{path}" fill="none" stroke="{shape.colour}" stroke-width="{shape.width:g}" '
            f'stroke-linejoin="round"{dashes}/>'
        )
    if isinstance(shape, Dot):
        x, y = shape.centre
        told = f"<title>{escape(shape.told)}</title>" if shape.told else ""
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{shape.radius:g}" fill="{shape.colour}">'
            f"{told}</circle>"
        )
    x, y = shape.at
    weight = ' font-weight="600"' if shape.is_bold else ""
    halo = (
        ' stroke="#ffffff" stroke-width="4" stroke-linejoin="round" paint-order="stroke"'
        if shape.has_halo
        else ""
    )
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if shape.is_turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" text-anchor="{shape.anchor}" '
        f'fill="{shape.colour}"{weight}{halo}{turned}>{escape(shape.text)}</text>'
    )


def png_of(drawing: Drawing) -> bytes:
    """The same as a picture, twice as large."""
    shape = (drawing.height * _PNG_SCALE, drawing.width * _PNG_SCALE, 3)
    pixels = np.full(shape, 255, np.uint8)
    face = cv2.FontFace("sans")
    for each in drawing.shapes:
        if isinstance(each, Line):
            for piece in _dashes(each.points) if each.is_dashed else [each.points]:
                _paint_line(pixels, piece, each.colour, each.width)
        elif isinstance(each, Dot):
            scale = _PNG_SCALE << _SUBPIXEL_BITS
            x, y = (round(value * scale) for value in each.centre)
            radius = round(each.radius * scale)
            cv2.circle(
                pixels, (x, y), radius, _bgr(each.colour), cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS
            )
        else:
            _paint_text(pixels, each, face)
    _, content = cv2.imencode(".png", pixels)
    return content.tobytes()


def _paint_line(
    pixels: NDArray[np.uint8], points: Sequence[Point], colour: str, width: float
) -> None:
    scaled = np.array(points, float) * (_PNG_SCALE << _SUBPIXEL_BITS)
    thickness = max(1, round(width * _PNG_SCALE))
    cv2.polylines(
        pixels,
        [np.rint(scaled).astype(np.int32)],
        False,
        _bgr(colour),
        thickness,
        cv2.LINE_AA,
        _SUBPIXEL_BITS,
    )


def _paint_text(pixels: NDArray[np.uint8], text: Text, face: cv2.FontFace) -> None:
    size, weight = round(text.size * _PNG_SCALE), 600 if text.is_bold else 400
    _, _, width, _ = cv2.getTextSize((0, 0), text.text, (0, 0), face, size, weight)
    before = {"start": 0.0, "middle": width / 2, "end": float(width)}[text.anchor]
    x, y = (round(value * _PNG_SCALE) for value in text.at)
    if not text.is_turned:
        origin = (x - round(before), y)
        for step_x, step_y in _AROUND if text.has_halo else ():
            beside = (origin[0] + step_x, origin[1] + step_y)
            cv2.putText(pixels, text.text, beside, (255, 255, 255), face, size, weight)
        cv2.putText(pixels, text.text, origin, _bgr(text.colour), face, size, weight)
        return
    # What reads upwards is drawn level on the picture turned by a quarter.
    turned = np.ascontiguousarray(np.rot90(pixels, -1))
    origin = (pixels.shape[0] - y - round(before), x)
    cv2.putText(turned, text.text, origin, _bgr(text.colour), face, size, weight)
    pixels[...] = np.rot90(turned)


def _dashes(points: Sequence[Point]) -> list[Sequence[Point]]:
    """The pieces of a line that are drawn; a dash may go round a corner straight."""
    places = np.array(points, float)
    steps = np.hypot(*np.diff(places, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    starts = np.arange(0, along[-1], _DASH + _GAP)
    ends = np.minimum(starts + _DASH, along[-1])

    def at(lengths: NDArray[np.float64]) -> list[Point]:
        x, y = (np.interp(lengths, along, places[:, axis]).tolist() for axis in (0, 1))
        return list(zip(x, y, strict=True))

    return [list(piece) for piece in zip(at(starts), at(ends), strict=True)]


def _bgr(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return blue, green, red
