"""Which detections and which instances are of one image: the pairs that are compared at all."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from training.evaluation.instances import Ints

#: Pairs looked at together; this bounds the memory.
_MAX_PAIRS = 2**20

Indices = NDArray[np.intp]


def pairs_of_images(ours: Ints, theirs: Ints) -> Iterator[tuple[Indices, Indices]]:
    """All places (i, j) with ours[i] == theirs[j], part after part, by rising i, of each rising j.

    All pairs of one i are in the same part.
    """
    order = np.argsort(theirs, kind="stable")
    first = np.searchsorted(theirs[order], ours, "left")
    counts = np.searchsorted(theirs[order], ours, "right") - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(ours):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _MAX_PAIRS, "right")))
        part = counts[start:stop]
        i = np.repeat(np.arange(start, stop), part)
        within = np.arange(len(i)) - np.repeat(ends[start:stop] - part - before, part)
        yield i, order[first[i] + within]
        start = stop


def meeting(
    ours_xyxy: NDArray[np.floating], theirs_xyxy: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Which of n pairs of upright boxes [n, 4] have some area in common."""
    meets = (ours_xyxy[:, :2] < theirs_xyxy[:, 2:]) & (theirs_xyxy[:, :2] < ours_xyxy[:, 2:])
    return np.all(meets, axis=1)
