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
#: Pairs whose thumbnails are compared at a time: more do not stay in the caches.
_COMPARED_AT_ONCE = 2**12


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
    known = [(place, each) for place, each in enumerate(pictures) if each is not None]
    positions = [place for place, each in known if each.bits is not None]
    if len(positions) < 2:
        return
    bits = np.stack([each.bits for _, each in known if each.bits is not None])
    thumbnails = np.stack([each.thumbnail for _, each in known if each.bits is not None])
    # A film gives millions of pairs: each is one number, its rows first * n + second.
    compared = np.zeros(0, np.int64)
    for column in range(bits.shape[1] // 2):
        candidates = np.setdiff1d(_candidates(bits, column), compared, assume_unique=True)
        compared = np.concatenate([compared, candidates])
        for start in range(0, len(candidates), _COMPARED_AT_ONCE):
            rows = np.divmod(candidates[start : start + _COMPARED_AT_ONCE], len(bits))
            alike = _are_alike(bits, thumbnails, *rows)
            for first, second in zip(*(each[alike].tolist() for each in rows), strict=True):
                yield positions[first], positions[second]


def _candidates(bits: NDArray[np.uint8], column: int) -> NDArray[np.int64]:
    """Rows that share the key of 16 bits in that column, each with those shortly before it."""
    keys = np.ascontiguousarray(bits).view(np.uint16)
    # Within a key the most alike stand together; equal ones mixed, so that those of one split
    # meet those of the other.
    mixed = np.random.default_rng(0).permutation(len(keys))
    order = np.lexsort((mixed, keys[:, (column + 1) % keys.shape[1]], keys[:, column]))
    ordered = keys[order, column]
    pairs = [np.zeros(0, np.int64)]
    for step in range(1, min(_MOST_COMPARED, len(order) - 1) + 1):
        same = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not len(same):
            break
        a, b = order[same], order[same + step]
        pairs.append(np.minimum(a, b) * len(keys) + np.maximum(a, b))
    return np.concatenate(pairs)


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
