"""Outlines become bitmaps: rasterised once, in the finished window, each on a crop of its own.

No stack of full-sized masks exists at any time: an instance is a crop and its place, and leaves as
packed rows of what the mask loss looks at (`training.targets`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from training.data.annotations import Floats, Outline
from training.data.geometry import Affine, Window, moved_points
from training.data.images import Pixels
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


def place_outline(outline: Outline, affine: Affine, region: Window) -> tuple[Bitmap, Floats] | None:
    """An outline after an affine map, within a window, and its box [4]; None: nothing is left.

    The box is that of the polygons cut at the window, as published; a bitmap's is its own.
    """
    if outline.bitmap is not None:
        return _place_bitmap(outline.bitmap, outline.origin, affine, region)
    polygons = [moved_points(polygon, affine) for polygon in outline.polygons]
    box = _box_of(polygons, region)
    if box is None:
        return None
    crop = _pixels_of(box, region)
    shift = (crop.left, crop.top)
    flat = [(polygon - shift).ravel() for polygon in polygons]
    runs = coco_masks.frPyObjects(flat, crop.height, crop.width)  # type: ignore[arg-type]
    merged = coco_masks.merge(runs) if len(runs) > 1 else runs[0]
    bitmap = _bitmap(coco_masks.decode(merged), crop)
    return None if bitmap is None else (bitmap, np.clip(box, *_reach(bitmap)))


def _reach(bitmap: Bitmap) -> tuple[Floats, Floats]:
    """How far a box may go: a pixel beyond the bitmap. Cutting joins parts along the edges."""
    left, top, width, height = cv2.boundingRect(bitmap.pixels)
    left, top = left + bitmap.x, top + bitmap.y
    low = np.array([left - 1, top - 1] * 2, np.float32)
    return low, np.array([left + width + 1, top + height + 1] * 2, np.float32)


def _place_bitmap(
    bitmap: Pixels, origin: tuple[int, int], affine: Affine, region: Window
) -> tuple[Bitmap, Floats] | None:
    height, width = bitmap.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) + origin
    box = _box_of([moved_points(corners, affine)], region)
    if box is None:
        return None
    crop = _pixels_of(box, region)
    local = affine.copy()
    # From edges to centres of pixels, at both ends, and into the crop.
    local[:, 2] += affine[:, :2] @ (np.array(origin) + 0.5) - 0.5 - (crop.left, crop.top)
    warped = cv2.warpAffine(bitmap * 255, local, (crop.width, crop.height))
    placed = _bitmap((warped > 127).astype(np.uint8), crop)
    if placed is None:
        return None
    left, top, across, down = cv2.boundingRect(placed.pixels)
    left, top = left + placed.x, top + placed.y
    return placed, np.array([left, top, left + across, top + down], np.float32)


def _bitmap(pixels: Pixels, crop: Window) -> Bitmap | None:
    moments = cv2.moments(np.ascontiguousarray(pixels), binaryImage=True)
    area = moments["m00"]
    if area == 0:
        return None
    centre = (moments["m10"] / area + crop.left, moments["m01"] / area + crop.top)
    return Bitmap(np.ascontiguousarray(pixels), crop.left, crop.top, centre)


def _pixels_of(box: Floats, region: Window) -> Window:
    """The pixels that a box touches."""
    return Window(
        max(region.left, int(np.floor(box[0]))),
        max(region.top, int(np.floor(box[1]))),
        min(region.right, int(np.ceil(box[2])) + 1),
        min(region.bottom, int(np.ceil(box[3])) + 1),
    )


def _box_of(polygons: Sequence[NDArray[np.float64]], region: Window) -> Floats | None:
    """The box around what of the polygons lies in the window; None: nothing does."""
    lows, highs = [], []
    for polygon in polygons:
        low, high = polygon.min(0), polygon.max(0)
        if (low < region[:2]).any() or (high > region[2:]).any():
            inside = _cut(polygon, region)
            if not len(inside):
                continue
            low, high = inside.min(0), inside.max(0)
        lows.append(low)
        highs.append(high)
    if not lows:
        return None
    box = np.concatenate([np.min(lows, 0), np.max(highs, 0)]).astype(np.float32)
    return box if box[2] > box[0] and box[3] > box[1] else None


def _cut(polygon: NDArray[np.float64], region: Window) -> NDArray[np.float64]:
    """The polygon cut along the window's four edges (Sutherland and Hodgman, 1974).

    Parts that the window separates stay joined along its edges.
    """
    edges = ((0, region.left, 1), (0, region.right, -1), (1, region.top, 1), (1, region.bottom, -1))
    for axis, limit, sign in edges:
        if not len(polygon):
            break
        ahead = np.roll(polygon, -1, 0)
        here, there = ((each[:, axis] - limit) * sign for each in (polygon, ahead))
        crosses = (here > 0) != (there > 0)
        share = np.divide(here, here - there, out=np.zeros_like(here), where=crosses)
        crossings = polygon + share[:, None] * (ahead - polygon)
        # Each corner that is inside, then the crossing of the side that begins there.
        both = np.stack([polygon, crossings], 1).reshape(-1, 2)
        polygon = both[np.stack([here > 0, crosses], 1).ravel()]
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
