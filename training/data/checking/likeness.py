"""Pictures that look alike, though their files differ: saved anew, resized a little, film frames.

A picture is known by the signs of its lowest frequencies (a perceptual hash after the cosine
transform), 128 bits. Those that share 16 bits at one place are compared, hash and thumbnail.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_TRANSFORM_SIDE, _KEPT_SIDE, _NUM_BITS = 32, 12, 128
THUMBNAIL_SIDE = 16

#: Hashes differ in so many bits at most; what is saved anew differs in none to six.
_MOST_BITS = 14
#: Grey levels by which thumbnails differ in the mean at most, after brightness is taken away, as a
#: share of their own spread.
_MOST_DIFFERENCE = 0.12
#: Pictures of less spread (the standard deviation of grey levels) are plain: all alike.
_LEAST_SPREAD = 6.0
#: Each picture of a group with one key is compared with so many before it.
_MOST_COMPARED = 24


class Likeness(NamedTuple):
    """`bits` uint8 [16]; `thumbnail` uint8 [256], grey. `bits` are None for plain pictures."""

    bits: NDArray[np.uint8] | None
    thumbnail: NDArray[np.uint8]


def likeness(pixels: NDArray[np.uint8]) -> Likeness:
    """What a picture [h, w, 3] BGR is known by."""
    # First small, then grey: few pixels are left to be converted.
    side = (_TRANSFORM_SIDE, _TRANSFORM_SIDE)
    small = cv2.resize(pixels, side, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    thumbnail = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    flat: NDArray[np.uint8] = np.asarray(thumbnail, np.uint8).ravel()
    if float(flat.std()) < _LEAST_SPREAD:
        return Likeness(None, flat)
    frequencies = np.asarray(cv2.dct(grey.astype(np.float32)))
    lowest = frequencies[:_KEPT_SIDE, :_KEPT_SIDE].ravel()[1 : _NUM_BITS + 1]
    return Likeness(np.packbits(lowest > np.median(lowest)), flat)


def alike_pairs(pictures: list[Likeness | None]) -> Iterator[tuple[int, int]]:
    """Pairs of positions, the smaller first, of pictures that look alike; each pair once."""
    positions = [i for i, each in enumerate(pictures) if each is not None and each.bits is not None]
    if len(positions) < 2:
        return
    known = [each for each in pictures if each is not None and each.bits is not None]
    bits = np.stack([each.bits for each in known if each.bits is not None])
    thumbnails = np.stack([each.thumbnail for each in known])
    told: set[tuple[int, int]] = set()
    for first, second in _candidates(bits):
        same = _are_alike(bits, thumbnails, first, second)
        for a, b in zip(first[same].tolist(), second[same].tolist(), strict=True):
            pair = (positions[min(a, b)], positions[max(a, b)])
            if pair not in told:
                told.add(pair)
                yield pair


def _candidates(
    bits: NDArray[np.uint8],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows that share a key of 16 bits: of each key, each row with those shortly before it."""
    keys = np.ascontiguousarray(bits).view(np.uint16)
    for column in range(keys.shape[1]):
        order = np.argsort(keys[:, column], kind="stable")
        ordered = keys[order, column]
        for step in range(1, min(_MOST_COMPARED, len(order) - 1) + 1):
            same = np.flatnonzero(ordered[step:] == ordered[:-step])
            if not len(same):
                break
            yield order[same], order[same + step]


def _are_alike(
    bits: NDArray[np.uint8],
    thumbnails: NDArray[np.uint8],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray[np.bool_]:
    differing = np.unpackbits(bits[first] ^ bits[second], axis=1).sum(axis=1)
    alike = differing <= _MOST_BITS
    a, b = (thumbnails[rows[alike]].astype(np.float32) for rows in (first, second))
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    spread = np.minimum(a.std(axis=1), b.std(axis=1))
    alike[alike] = np.abs(a - b).mean(axis=1) <= _MOST_DIFFERENCE * spread
    return alike
