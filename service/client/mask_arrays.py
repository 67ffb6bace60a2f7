"""From the three formats of masks to arrays. What does not fit the size raises ValueError."""

import base64
import struct
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# A run length has five bits a character, of which seven hold any that an array can have.
_MAX_CHARACTERS = 7

_PNG_HEADER = struct.Struct(">8s4x4sII")


def decode_run_lengths(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """COCO's compressed run lengths as bool [height, width].

    The format (pycocotools, `rleFrString`): every character holds five bits, the lowest first, and
    whether more follow; from the fourth run on, the difference to the run before the last is
    written. Here all runs are read at once, and none can reach outside the array.
    """
    runs = _read_runs(counts)
    if (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError(f"its runs do not fill {height} x {width} pixels")
    is_on = np.arange(len(runs)) % 2 == 1
    columns = np.repeat(is_on, runs).reshape(width, height)
    return np.ascontiguousarray(columns.T)


def _read_runs(counts: str) -> NDArray[np.int64]:
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(codes) or ((codes < 0) | (codes > 63)).any() or codes[-1] & 32:
        raise ValueError("its run lengths are no run lengths")
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise ValueError("it has a run longer than any array")
    place = np.arange(len(codes)) - np.repeat(first, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), first)
    # The highest bit of the last character is the sign.
    runs -= ((codes[last] >> 4) & 1) << (5 * lengths)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def fill_rings(
    rings: Sequence[Sequence[tuple[float, float]]], height: int, width: int
) -> NDArray[np.bool_]:
    """The pixels whose middle lies inside an odd number of rings, as bool [height, width].

    In every row, each edge of a ring that crosses the row's middle changes inside to outside or
    back for all pixels to its right.
    """
    edges = [_edges(ring) for ring in rings if ring]
    x1, y1, x2, y2 = np.concatenate(edges, axis=1) if edges else np.empty((4, 0))
    top, bottom = np.minimum(y1, y2), np.maximum(y1, y2)
    first = np.clip(np.ceil(top - 0.5), 0, height).astype(np.intp)
    stop = np.clip(np.ceil(bottom - 0.5), 0, height).astype(np.intp)
    num_rows = stop - first
    edge = np.repeat(np.arange(len(x1)), num_rows)
    before = np.cumsum(num_rows) - num_rows
    row = first[edge] + np.arange(len(edge)) - before[edge]
    slope = (x2[edge] - x1[edge]) / (y2[edge] - y1[edge])
    crossing = x1[edge] + (row + 0.5 - y1[edge]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)
    changes = np.zeros((height, width + 1), np.uint8)
    np.add.at(changes, (row, column), 1)
    return np.cumsum(changes[:, :width], axis=1, dtype=np.uint8) % 2 == 1


def _edges(ring: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """[4, n]: x1, y1, x2, y2 of each edge, the last of which leads to the first point."""
    points = np.asarray(ring, np.float64)
    return np.concatenate((points.T, np.roll(points, -1, axis=0).T))


def decode_png(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """base64 of a PNG of one channel as bool [height, width]: what is not black."""
    data = base64.b64decode(text, validate=True)
    # Compared before anything is decoded: a few bytes may claim to be gigabytes of pixels.
    if len(data) < _PNG_HEADER.size:
        raise ValueError("it is no PNG")
    signature, chunk, *claimed = _PNG_HEADER.unpack_from(data)
    if signature != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR" or claimed != [width, height]:
        raise ValueError(f"it is no PNG of {height} x {width} pixels")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 2:
        raise ValueError("its PNG is damaged or has more than one channel")
    return picture != 0
