"""Lines with a dark edge, dashed or not, and tags: what is drawn on pictures of any colour."""

import itertools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from training.drawing import Picture
from training.report.kinds import Kind

#: Points are given to OpenCV in sixteenths of a pixel.
_BITS = 4

_FONT, _FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.48
_DARK = (24, 24, 24)

Points = NDArray[np.floating]


def stroke_outline(picture: Picture, points: Points, kind: Kind) -> None:
    """Draw the closed line through points [n, 2] of (x, y) as the kind looks."""
    pieces = list(_dashes(np.vstack([points, points[:1]]), kind.dashes))
    for colour, width in ((_DARK, kind.width + 2), (kind.colour[::-1], kind.width)):
        for piece in pieces:
            line = np.rint(piece * 2**_BITS).astype(np.int32)
            cv2.polylines(picture, [line], False, colour, width, cv2.LINE_AA, _BITS)


def fill(picture: Picture, outlines: Sequence[Points], kind: Kind, opacity: float) -> None:
    """Blend the kind's colour in where the outlines enclose; one within another is a hole."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32) for outline in outlines], 1)
    inside = mask.astype(np.bool_)
    blended = picture[inside] * (1 - opacity) + np.array(kind.colour[::-1]) * opacity
    picture[inside] = blended.astype(np.uint8)


class Tags:
    """Writes short tags beside outlines, each where none stands yet if there is such a place."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int, int, int]] = []

    def write(self, picture: Picture, text: str, points: Points, kind: Kind) -> None:
        """Write at one of the corners of what encloses the points; nothing where it is outside."""
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        if right < 0 or bottom < 0 or left > picture.shape[1] or top > picture.shape[0]:
            return
        (text_width, text_height), _ = cv2.getTextSize(text, _FONT, _FONT_SIZE, 1)
        width, height = text_width + 6, text_height + 6
        spots = [self._inside(picture, x, y, width, height) for x, y in _corners(points, height)]
        x, y = next((spot for spot in spots if self._is_free(*spot, width, height)), spots[0])
        self._taken.append((x, y, width, height))
        cv2.rectangle(picture, (x, y), (x + width, y + height), kind.colour[::-1], -1)
        cv2.rectangle(picture, (x, y), (x + width, y + height), _DARK, 1)
        place = (x + 3, y + 3 + text_height)
        cv2.putText(picture, text, place, _FONT, _FONT_SIZE, _DARK, 1, cv2.LINE_AA)

    @staticmethod
    def _inside(picture: Picture, x: float, y: float, width: int, height: int) -> tuple[int, int]:
        all_height, all_width = picture.shape[:2]
        return (
            max(0, min(round(x), all_width - width - 1)),
            max(0, min(round(y), all_height - height - 1)),
        )

    def _is_free(self, x: int, y: int, width: int, height: int) -> bool:
        return not any(
            x < other_x + other_width
            and other_x < x + width
            and y < other_y + other_height
            and other_y < y + height
            for other_x, other_y, other_width, other_height in self._taken
        )


def _corners(points: Points, height: int) -> list[tuple[float, float]]:
    """Top left places of a text: above, within, below, and on the right."""
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return [
        (left, top - height),
        (left, bottom + 1),
        (left + 2, top + 2),
        (right, top - height),
        (right, bottom + 1),
    ]


def _dashes(points: Points, lengths: Sequence[int]) -> Iterator[Points]:
    """The pieces of a line [n, 2] that are drawn: lengths are drawn and left out in turn."""
    if not lengths:
        yield points
        return
    steps = np.hypot(*np.diff(points, axis=0).T)
    along = np.append(0, np.cumsum(steps))
    start = 0.0
    for place, length in enumerate(itertools.cycle(lengths)):
        end = min(start + length, along[-1])
        if place % 2 == 0:
            within = along[(along > start) & (along < end)]
            at = np.concatenate([[start], within, [end]])
            yield np.stack([np.interp(at, along, axis) for axis in points.T], axis=1)
        start = end
        if start >= along[-1]:
            return
