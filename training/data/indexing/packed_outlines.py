"""The outlines of all instances of an index: polygons, or run lengths, from mapped arrays."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from training.data.annotations import Floats, Outline
from training.data.indexing.array_folders import mapped_array
from training.data.run_lengths import cropped, of_polygons


class PackedOutlines:
    """By the row of the instance; `size` is height and width of its image."""

    def __init__(self, folder: Path) -> None:
        self._points = mapped_array(folder, "points")
        self._point_offsets = mapped_array(folder, "point_offsets")
        self._polygon_offsets = mapped_array(folder, "polygon_offsets")
        self._run_lengths = mapped_array(folder, "run_lengths")
        self._run_length_offsets = mapped_array(folder, "run_length_offsets")

    def outline(self, row: int, size: tuple[int, int]) -> Outline:
        """For training: run lengths become a crop around the instance."""
        polygons = self._polygons(row)
        if polygons:
            return Outline(polygons=polygons)
        bitmap, origin = cropped(self.mask(row, size), *size)
        return Outline(bitmap=bitmap, origin=origin)

    def mask(self, row: int, size: tuple[int, int]) -> bytes:
        """For evaluation: run lengths of the whole image; of nothing for a box alone."""
        start, end = self._run_length_offsets[row : row + 2].tolist()
        if end > start:
            return self._run_lengths[start:end].tobytes()
        # Files have two or three decimals; single precision would move points that lie on half a
        # pixel to its other side.
        polygons = [np.round(points.astype(np.float64), 3) for points in self._polygons(row)]
        return of_polygons(polygons, *size)

    def _polygons(self, row: int) -> tuple[Floats, ...]:
        first, last = self._polygon_offsets[row : row + 2].tolist()
        offsets = self._point_offsets[first : last + 1].tolist()
        return tuple(self._points[start:end] for start, end in pairwise(offsets))
