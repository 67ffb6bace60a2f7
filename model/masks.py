"""Instance masks as values, and the formats in which they leave: run lengths, outlines, PNG.

A mask is kept as a crop and its place in the original image, not as the whole picture.
"""

from dataclasses import dataclass
from typing import TypedDict, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """The pixels of one instance in an image of `image_width` x `image_height`.

    `crop` [h, w] says which pixels belong to it; its top left pixel is (`x`, `y`) of the image,
    and all pixels outside the crop do not belong. A crop without pixels is an empty mask.
    """

    x: int
    y: int
    crop: NDArray[np.bool_]
    image_width: int
    image_height: int


class CompressedRle(TypedDict):
    """COCO's compressed run lengths: `size` is [height, width] of the image."""

    size: list[int]
    counts: str


class Polygon(TypedDict):
    """One connected region: closed rings of [x, y], the last point joined to the first."""

    exterior: list[list[int]]
    holes: list[list[list[int]]]


def dense(mask: InstanceMask) -> NDArray[np.bool_]:
    """The mask as a whole picture: bool [image_height, image_width]."""
    picture = np.zeros((mask.image_height, mask.image_width), np.bool_)
    height, width = mask.crop.shape
    picture[mask.y : mask.y + height, mask.x : mask.x + width] = mask.crop
    return picture


def encode_png(mask: InstanceMask) -> bytes:
    """A PNG as large as the image, one channel, 255 where the instance is and 0 elsewhere."""
    picture = dense(mask).view(np.uint8) * np.uint8(255)
    encoded, data = cv2.imencode(".png", picture)
    assert encoded
    return data.tobytes()


def encode_rle(mask: InstanceMask) -> CompressedRle:
    """COCO's compressed RLE, as `pycocotools.mask.encode` makes it of the whole picture.

    The runs (down the columns, as COCO counts) are found in the crop; the picture is never built.
    """
    height, width = mask.crop.shape
    # A pixel that is off before each column and after the last, so that runs end with theirs.
    flat = np.zeros(width * (height + 1) + 1, np.bool_)
    flat[1:].reshape(width, height + 1)[:, :height] = mask.crop.T
    # Starts and ends of runs, taking turns; an end is the first pixel after the run.
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), height + 1)
    edges = (mask.x + column) * mask.image_height + mask.y + row
    # Where the crop is as high as the image, a run may end where the next one starts: one run.
    apart = edges[1:] != edges[:-1]
    kept = np.ones(len(edges), np.bool_)
    kept[1:] &= apart
    kept[:-1] &= apart
    edges = edges[kept]
    num_pixels = mask.image_height * mask.image_width
    counts = np.diff(edges, prepend=0, append=num_pixels)
    if len(edges) and edges[-1] == num_pixels:
        counts = counts[:-1]
    size = [mask.image_height, mask.image_width]
    compressed = coco_mask.frPyObjects({"size": size, "counts": counts.tolist()}, *size)
    # Its stub promises a string.
    return {"size": size, "counts": cast(bytes, compressed["counts"]).decode("ascii")}


def polygons(mask: InstanceMask) -> list[Polygon]:
    """Outlines along the edges of the pixels, in whole pixels of the image.

    Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1), so the rings enclose exactly the
    area of the mask and a single pixel is a square. Pixels that meet only at a corner belong to
    one region, whose ring touches itself there. Regions within holes are regions of their own.
    """
    # OpenCV's outlines run through the middles of pixels, so they are taken in a picture of twice
    # the size, where `_ring` can tell on which side of its pixel a point lies.
    doubled = np.repeat(np.repeat(mask.crop.view(np.uint8), 2, axis=0), 2, axis=1)
    if not doubled.any():
        return []
    outlines, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy[0, :, 3].tolist()
    rings = [_ring(outline[:, 0], mask.x, mask.y) for outline in outlines]
    regions: dict[int, Polygon] = {
        place: {"exterior": ring, "holes": []}
        for place, (ring, parent) in enumerate(zip(rings, parents, strict=True))
        if parent < 0
    }
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            regions[parent]["holes"].append(ring)
    return list(regions.values())


def _ring(quarters: NDArray[np.generic], x: int, y: int) -> list[list[int]]:
    """An outline [n, 2] of quarter pixels, as a ring along pixel edges moved by (x, y).

    The outermost quarter at an even place borders on a left or upper edge, at an odd place on a
    right or lower one, and (place + 1) // 2 is that edge. In a concave corner the outline steps
    diagonally between two quarters that name the same corner, so the ring has right angles only.
    """
    points = (quarters.astype(np.intp) + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    return (points + np.array([x, y])).tolist()
