"""Outlines become bitmaps: rasterised once, in the finished window, each on a crop of its own.

No stack of full-sized masks exists at any time: an instance is a crop and its place, and leaves as
packed rows of what the mask loss looks at (`training.targets`).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data import run_lengths
from training.data.annotations import Outline
from training.data.sampling.geometry import Affine, Window, moved_points
from training.data.sampling.images import Pixels
from training.targets import MASK_OFFSET, MASK_STRIDE


class Bitmap(NamedTuple):
    """One instance: `pixels` uint8 [h, w], 1 where it is, with the top left one at (x, y).

    `centre` is the mean of its pixels' indices (x, y).
    """

    pixels: Pixels
    x: int
    y: int
    centre: tuple[float, float]

    def mirrored(self, width: int) -> "Bitmap":
        """In a picture of that width, mirrored left and right."""
        pixels = np.ascontiguousarray(self.pixels[:, ::-1])
        centre = (width - 1 - self.centre[0], self.centre[1])
        return Bitmap(pixels, width - self.x - pixels.shape[1], self.y, centre)


class Placed(NamedTuple):
    """An instance in the window: its bitmap and its box xyxy."""

    bitmap: Bitmap
    box: tuple[float, float, float, float]


def place_outlines(
    outlines: Sequence[Outline], affine: Affine, region: Window
) -> list[Placed | None]:
    """Outlines after an affine map, within a region of the window; None: nothing is left of one.

    The box is that of the polygons cut at the region, as published; a bitmap's is its own.
    """
    polygons = iter(_moved_polygons(outlines, affine, region))
    return [
        _place_bitmap(each.bitmap, each.origin, affine, region)
        if each.bitmap is not None
        else _place_polygons(list(islice(polygons, len(each.polygons))), region)
        for each in outlines
    ]


class _Polygon(NamedTuple):
    """Points [k, 2] and the least and greatest of their coordinates."""

    points: NDArray[np.float64]
    low: tuple[float, float]
    high: tuple[float, float]
    crosses: bool


def _moved_polygons(
    outlines: Sequence[Outline], affine: Affine, region: Window
) -> Iterator[_Polygon]:
    """The polygons of all outlines, mapped in one go: numpy's calls are what takes the time."""
    given = [polygon for outline in outlines for polygon in outline.polygons]
    if not given:
        return
    ends = np.cumsum([len(polygon) for polygon in given])
    points = moved_points(np.concatenate(given), affine)
    starts = np.concatenate([[0], ends[:-1]])
    lows, highs = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    crosses = np.any((lows < region[:2]) | (highs > region[2:]), axis=1).tolist()
    # As Python's numbers, which are faster one by one.
    lowest, highest = lows.tolist(), highs.tolist()
    for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        low, high = tuple(lowest[index]), tuple(highest[index])
        yield _Polygon(points[start:end], low, high, crosses[index])


def _place_polygons(polygons: list[_Polygon], region: Window) -> Placed | None:
    box = _box_of(polygons, region)
    if box is None:
        return None
    crop = _pixels_of(box, region)
    # From the first pixel of all the polygons, because points before the origin are rounded
    # towards it: in the window that is so for those before the window alone.
    left = min(crop.left, *(max(0, math.floor(polygon.low[0])) for polygon in polygons))
    top = min(crop.top, *(max(0, math.floor(polygon.low[1])) for polygon in polygons))
    width, height = crop.right - left, crop.bottom - top
    runs = run_lengths.of_polygons(
        [polygon.points - (left, top) for polygon in polygons], height, width
    )
    pixels = run_lengths.decoded(runs, height, width)
    bitmap = _bitmap(pixels[crop.top - top :, crop.left - left :], crop)
    if bitmap is None:
        return None
    # Cutting joins parts along the edges: a box goes no further than a pixel beyond its bitmap.
    reach = _box_of_pixels(bitmap)
    return Placed(
        bitmap,
        (
            max(box[0], reach[0] - 1),
            max(box[1], reach[1] - 1),
            min(box[2], reach[2] + 1),
            min(box[3], reach[3] + 1),
        ),
    )


def _box_of_pixels(bitmap: Bitmap) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect(bitmap.pixels)
    left, top = left + bitmap.x, top + bitmap.y
    return left, top, left + width, top + height


def _place_bitmap(
    bitmap: Pixels, origin: tuple[int, int], affine: Affine, region: Window
) -> Placed | None:
    height, width = bitmap.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) + origin
    box = _box_of(
        list(_moved_polygons([Outline(polygons=(corners.astype(np.float32),))], affine, region)),
        region,
    )
    if box is None:
        return None
    crop = _pixels_of(box, region)
    local = affine.copy()
    # From edges to centres of pixels, at both ends, and into the crop.
    local[:, 2] += affine[:, :2] @ (np.array(origin) + 0.5) - 0.5 - (crop.left, crop.top)
    warped = cv2.warpAffine(bitmap * 255, local, (crop.width, crop.height))
    placed = _bitmap((warped > 127).astype(np.uint8), crop)
    return None if placed is None else Placed(placed, _box_of_pixels(placed))


def _bitmap(pixels: Pixels, crop: Window) -> Bitmap | None:
    pixels = np.ascontiguousarray(pixels)
    moments = cv2.moments(pixels, binaryImage=True)
    area = moments["m00"]
    if area == 0:
        return None
    centre = (moments["m10"] / area + crop.left, moments["m01"] / area + crop.top)
    return Bitmap(pixels, crop.left, crop.top, centre)


def _pixels_of(box: tuple[float, float, float, float], region: Window) -> Window:
    """The pixels that a box touches, and a row and a column more."""
    return Window(
        max(region.left, math.floor(box[0])),
        max(region.top, math.floor(box[1])),
        min(region.right, math.ceil(box[2]) + 1),
        min(region.bottom, math.ceil(box[3]) + 1),
    )


def _box_of(polygons: list[_Polygon], region: Window) -> tuple[float, float, float, float] | None:
    """The box around what of the polygons lies in the region; None: nothing does."""
    lows, highs = [], []
    for polygon in polygons:
        low, high = polygon.low, polygon.high
        if polygon.crosses:
            inside = _cut(polygon.points, region)
            if not len(inside):
                continue
            low, high = inside.min(0).tolist(), inside.max(0).tolist()
        lows.append(low)
        highs.append(high)
    if not lows:
        return None
    left, top = map(min, zip(*lows, strict=True))
    right, bottom = map(max, zip(*highs, strict=True))
    return (left, top, right, bottom) if right > left and bottom > top else None


def _cut(polygon: NDArray[np.float64], region: Window) -> NDArray[np.float64]:
    """The polygon cut along the window's four edges (Sutherland and Hodgman, 1974).

    Parts that the window separates stay joined along its edges.
    """
    edges = ((0, region.left, 1), (0, region.right, -1), (1, region.top, 1), (1, region.bottom, -1))
    for axis, limit, sign in edges:
        here = (polygon[:, axis] - limit) * sign
        inside = here > 0
        if inside.all():
            continue
        if not inside.any():
            return polygon[:0]
        following = np.arange(1, len(polygon) + 1) % len(polygon)
        crosses = inside != inside[following]
        sides = polygon[following] - polygon
        share = here / np.where(crosses, here - here[following], 1)
        # Each corner that is inside, then the crossing of the side that begins there.
        both, kept = np.empty((len(polygon), 2, 2)), np.empty((len(polygon), 2), np.bool_)
        both[:, 0], both[:, 1] = polygon, polygon + share[:, None] * sides
        kept[:, 0], kept[:, 1] = inside, crosses
        polygon = both[kept]
    return polygon


def packed_masks(bitmaps: Sequence[Bitmap], input_size: tuple[int, int]) -> Pixels:
    """The masks at [2::4, 2::4] of the input: uint8 [n, h // 4, ceil(w // 4 / 8)]."""
    height, width = (side // MASK_STRIDE for side in input_size)
    packed = np.zeros((len(bitmaps), height, -(-width // 8)), np.uint8)
    for bitmap, rows in zip(bitmaps, packed, strict=True):
        first_row, first_column = _first_sample(bitmap.y), _first_sample(bitmap.x)
        seen = bitmap.pixels[
            first_row * MASK_STRIDE + MASK_OFFSET - bitmap.y :: MASK_STRIDE,
            first_column * MASK_STRIDE + MASK_OFFSET - bitmap.x :: MASK_STRIDE,
        ]
        if not seen.size:
            continue
        byte, spare = divmod(first_column, 8)
        bits = np.zeros((seen.shape[0], spare + seen.shape[1]), np.uint8)
        bits[:, spare:] = seen
        octets = np.packbits(bits, axis=1)
        rows[first_row : first_row + len(octets), byte : byte + octets.shape[1]] = octets
    return packed


def _first_sample(pixel: int) -> int:
    """The first sample at or after a pixel."""
    return max(0, -(-(pixel - MASK_OFFSET) // MASK_STRIDE))
