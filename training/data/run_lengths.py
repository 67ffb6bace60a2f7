"""COCO's run lengths: counts of 0s and 1s in turn, down the columns, plain or compressed.

Compressed, each count is written in groups of five bits, low ones first, as characters from 48;
from the third on as the difference to the count before the last (pycocotools, `maskApi.c`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_FIRST_CHARACTER = 48
_BITS, _SIGN, _MORE = 5, 16, 32
#: Groups of a number that is smaller than 2 ** 60.
_MAX_GROUPS = 12


def compressed(counts: object, height: int, width: int) -> bytes:
    """The compressed form of run lengths in either form, for an image of that size.

    Raises ValueError unless they are run lengths that cover the image exactly.
    """
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if isinstance(counts, bytes):
        runs = expanded(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        # Larger ones would not fit into the array.
        runs = np.array([min(count, height * width + 1) for count in counts], np.int64)
    else:
        raise ValueError("run lengths that are neither a text nor a list of whole numbers")
    if (runs < 0).any():
        raise ValueError("run lengths of which one is negative")
    # Sums of larger ones could begin anew at zero.
    if (runs > height * width).any():
        raise ValueError(f"run lengths of which one is longer than the image ({height}x{width})")
    if int(runs.sum()) != height * width:
        raise ValueError(
            f"run lengths of {int(runs.sum())} pixels for an image of {height * width} "
            f"({height}x{width})"
        )
    return counts if isinstance(counts, bytes) else _compress(runs.tolist(), height, width)


def of_polygons(polygons: Sequence[NDArray[np.floating]], height: int, width: int) -> bytes:
    """The compressed run lengths of what polygons [k, 2] cover together; of nothing for none."""
    if not polygons:
        return _compress([height * width], height, width)
    flat: Any = [polygon.ravel().tolist() for polygon in polygons]
    rles: Any = coco_mask.frPyObjects(flat, height, width)
    return _counts(coco_mask.merge(rles))


def decoded(counts: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The whole picture [height, width] of compressed run lengths: 1 where the instance is."""
    runs = expanded(counts)
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.repeat(values, runs).reshape(width, height).T


def cropped(counts: bytes, height: int, width: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The smallest crop that holds the instance, and its top left pixel (x, y)."""
    bitmap = decoded(counts, height, width)
    rows, columns = (np.flatnonzero(bitmap.any(axis)) for axis in (1, 0))
    if not len(rows):
        return bitmap[:0, :0], (0, 0)
    crop = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(crop), (int(columns[0]), int(rows[0]))


def has_pixels(counts: bytes) -> bool:
    """Whether any run of 1s is longer than nothing."""
    return bool(expanded(counts)[1::2].any())


def _compress(runs: list[int], height: int, width: int) -> bytes:
    rle: Any = {"size": [height, width], "counts": runs}
    return _counts(coco_mask.frPyObjects(rle, height, width))


def _counts(rle: Any) -> bytes:
    return rle["counts"]


def expanded(counts: bytes) -> NDArray[np.int64]:
    """The plain run lengths. Raises ValueError where the text is none."""
    groups = np.frombuffer(counts, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not len(groups):
        return groups
    is_last = (groups & _MORE) == 0
    if groups.min() < 0 or groups.max() >= 2 * _MORE or not is_last[-1]:
        raise ValueError("run lengths in a text that is damaged")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        raise ValueError("run lengths in a text that is damaged")
    places = np.arange(len(groups)) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & (_MORE - 1)) << (_BITS * places), starts)
    values -= ((groups[ends] & _SIGN) != 0).astype(np.int64) << (_BITS * lengths)
    # Differences run over every second count; the first of the even ones stands alone.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
