"""Which part of an image a report shows, and where things stand in it."""

from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.run_lengths import decoded
from training.drawing import Picture, box_corners
from training.evaluation.instances import Found, Truth

#: The longer side of a picture in pixels.
SIDE = 480

#: Of a larger image a square with the most mistakes is cut out: small objects would vanish.
_LARGEST_WHOLE, _WINDOW = 1400, 960

#: A small image is made larger by this at most.
_LARGEST_SCALE = 3.0

#: Of so many places at most the window is tried around.
_MOST_TRIED = 500

Points = NDArray[np.floating]


class View(NamedTuple):
    """The part of an image that is shown, from (x, y) on; `image_size` is (height, width)."""

    image_size: tuple[int, int]
    x: int
    y: int
    width: int
    height: int

    @classmethod
    def of(cls, image_size: tuple[int, int], places: Points) -> "View":
        """The whole image, or of a large one the square with the most of the places [n, 2]."""
        height, width = image_size
        if max(height, width) <= _LARGEST_WHOLE or not len(places):
            return cls(image_size, 0, 0, width, height)
        limits = np.array([max(width - _WINDOW, 0), max(height - _WINDOW, 0)])
        # All pairs of very many places would fill the memory.
        tried = places[:: max(len(places) // _MOST_TRIED, 1)]
        corners = np.clip(tried - _WINDOW / 2, 0, limits)
        from_middle = np.abs(corners[:, None] + _WINDOW / 2 - places)
        num_inside = (from_middle <= _WINDOW / 2).all(axis=2).sum(axis=1)
        x, y = corners[num_inside.argmax()].astype(int).tolist()
        return cls(image_size, x, y, min(_WINDOW, width), min(_WINDOW, height))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return (self.height, self.width) == self.image_size

    def holds(self, places: Points) -> NDArray[np.bool_]:
        """Which of the places [n, 2] of the image are shown."""
        corner = np.array([self.x, self.y])
        extent = np.array([self.width, self.height])
        return np.all((places >= corner) & (places <= corner + extent), axis=1)

    @property
    def scale(self) -> float:
        """Pixels of the picture for one of the image."""
        return min(SIDE / max(self.width, self.height), _LARGEST_SCALE)

    def part(self, image: Picture) -> Picture:
        """The picture of that part of the image."""
        larger = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return cast(Picture, cv2.resize(self._cut(image), self._size, interpolation=larger))

    def outlines(self, instances: Truth | Found, row: int) -> list[Points]:
        """Closed lines [n, 2] around an instance, in pixels of the picture: of its mask if it has
        one, else of its box."""
        if instances.masks is not None:
            outlines = self._mask_outlines(instances.masks[row])
            if outlines:
                return outlines
        return [(box_corners(instances.boxes[row]) - (self.x, self.y)) * self.scale]

    def _mask_outlines(self, counts: bytes) -> list[Points]:
        mask = self._cut(decoded(counts, *self.image_size)).astype(np.float32)
        smooth = cv2.resize(mask, self._size, interpolation=cv2.INTER_LINEAR)
        inside = (smooth > 0.5).astype(np.uint8)
        outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        return [outline.reshape(-1, 2).astype(np.float32) for outline in outlines]

    @property
    def _size(self) -> tuple[int, int]:
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))

    def _cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return image[self.y : self.y + self.height, self.x : self.x + self.width]
