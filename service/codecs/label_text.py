"""Text as coverage, for the plates of labels.

OpenCV 5 brings a typeface with nearly all scripts. OpenCV 4 has none; there Pillow's serves, which
holds ASCII alone: letters lose their accents, and what else is missing shows as a crossed box.
"""

import unicodedata
from functools import lru_cache
from threading import Lock
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Height of capitals, as a part of the size; of both typefaces.
CAPITAL_HEIGHT = 0.7


class Typeface(Protocol):
    """Measures and draws one line of text; `size` is that of the em square in pixels."""

    def width(self, text: str, size: int) -> int:
        """Pixels from the start of the first letter to the end of the last one."""
        ...

    def draw(
        self, coverage: NDArray[np.uint8], text: str, x: int, baseline: int, size: int
    ) -> None:
        """Draw over `coverage` [h, w], 255 where a letter covers the whole pixel."""
        ...


class OpenCvTypeface:
    """The typeface that comes with OpenCV 5, semibold."""

    _WEIGHT = 550

    def __init__(self) -> None:
        self._face = cv2.FontFace("sans")
        # OpenCV lets other threads run while it draws, and the face keeps state.
        self._lock = Lock()

    def width(self, text: str, size: int) -> int:
        """See `Typeface`."""
        with self._lock:
            x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), self._face, size, self._WEIGHT)
        return x + width

    def draw(
        self, coverage: NDArray[np.uint8], text: str, x: int, baseline: int, size: int
    ) -> None:
        """See `Typeface`."""
        with self._lock:
            cv2.putText(coverage, text, (x, baseline), 255, self._face, size, self._WEIGHT)


class PillowTypeface:
    """The typeface that comes with Pillow."""

    def width(self, text: str, size: int) -> int:
        """See `Typeface`."""
        return round(_pillow_font(size).getlength(_without_accents(text)))

    def draw(
        self, coverage: NDArray[np.uint8], text: str, x: int, baseline: int, size: int
    ) -> None:
        """See `Typeface`."""
        height, width = coverage.shape
        image = Image.new("L", (width, height))
        letters = _without_accents(text)
        ImageDraw.Draw(image).text((x, baseline), letters, 255, _pillow_font(size), anchor="ls")
        np.maximum(coverage, np.asarray(image), out=coverage)


@lru_cache(maxsize=16)
def _pillow_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _without_accents(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def printable(text: str) -> str:
    """One line that any typeface takes: spaces for control characters, `?` for half characters."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    spaced = ("".join(letter if letter.isprintable() else " " for letter in whole)).split()
    return unicodedata.normalize("NFC", " ".join(spaced))
