"""Text as coverage, for the plates of labels, in the typeface that OpenCV brings."""

import unicodedata
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

#: Height of capitals, as a part of the size.
CAPITAL_HEIGHT = 0.7


class Typeface:
    """Semibold; it holds nearly all scripts. `size` is that of the em square in pixels."""

    _WEIGHT = 550

    def __init__(self) -> None:
        self._face = cv2.FontFace("sans")
        # OpenCV lets other threads run while it draws, and the face keeps state.
        self._lock = Lock()

    def width(self, text: str, size: int) -> int:
        """Pixels from the start of the first letter to the end of the last one."""
        with self._lock:
            x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), self._face, size, self._WEIGHT)
        return x + width

    def draw(
        self, coverage: NDArray[np.uint8], text: str, x: int, baseline: int, size: int
    ) -> None:
        """Draw over `coverage` [h, w], 255 where a letter covers the whole pixel."""
        with self._lock:
            cv2.putText(coverage, text, (x, baseline), 255, self._face, size, self._WEIGHT)


def printable(text: str) -> str:
    """One line that any typeface takes: spaces for control characters, `?` for half characters."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    spaced = ("".join(letter if letter.isprintable() else " " for letter in whole)).split()
    return unicodedata.normalize("NFC", " ".join(spaced))
