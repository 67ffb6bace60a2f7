"""One colour for each class id: stable, told apart by hue and lightness, the same in any language.

Hues step by the golden angle, so that any run of ids spreads over the circle; lightness steps by
about a third of its range, so that ids whose hues come close again differ in it. Both in OKLCH
(B. Ottosson, "A perceptual color space for image processing"), where equal steps look equal.
"""

from functools import cache
from math import cos, radians, sin

Bgr = tuple[int, int, int]

BLACK: Bgr = (24, 24, 24)
WHITE: Bgr = (255, 255, 255)

_FIRST_HUE_DEGREES = 150.0
_GOLDEN_ANGLE_DEGREES = 137.50776
_DARKEST, _LIGHTEST = 0.66, 0.88
# Of the steps 0.02 to 0.99 one of the two that keep the first 10, 20, 40 and 80 colours apart best.
_LIGHTNESS_STEP = 0.34
_CHROMA = 0.19


@cache
def class_colour(class_id: int) -> Bgr:
    """The colour of a class, blue, green and red of 0 to 255."""
    hue = radians(_FIRST_HUE_DEGREES + _GOLDEN_ANGLE_DEGREES * class_id)
    lightness = _DARKEST + (_LIGHTEST - _DARKEST) * (_LIGHTNESS_STEP * class_id % 1)
    # The most colourful that a screen can show at this lightness and hue.
    chroma = _CHROMA
    while not all(0 <= channel <= 1 for channel in _linear_rgb(lightness, chroma, hue)):
        chroma -= 0.002
    red, green, blue = (_to_srgb(channel) for channel in _linear_rgb(lightness, chroma, hue))
    return blue, green, red


def contrasting(colour: Bgr) -> Bgr:
    """Black or white, whichever is easier to read on `colour` (WCAG 2 contrast ratio)."""
    # The luminance whose ratios to black and to white are equal.
    return BLACK if luminance(colour) > 0.179 else WHITE


def luminance(colour: Bgr) -> float:
    """Relative luminance of WCAG 2, 0 for black to 1 for white."""
    blue, green, red = (_to_linear(channel) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """OKLCH to linear sRGB; outside 0 to 1 where a screen cannot show it."""
    a, b = chroma * cos(hue), chroma * sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _to_srgb(channel: float) -> int:
    encoded = 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055
    return round(255 * encoded)


def _to_linear(value: int) -> float:
    channel = value / 255
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
