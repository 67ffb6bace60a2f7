"""Pictures of training samples: what a batch shows the network, with what it is to find."""

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from training.drawing import Picture, box_corners, class_colour, write_name
from training.targets import MASK_STRIDE, DetectionBatch, ImageTargets, unpack_masks

#: At most so many images of a batch are drawn, each at most so wide.
MAX_IMAGES = 16
MAX_TILE_SIDE = 480

_MASK_OPACITY = 0.45


def draw_batch(batch: DetectionBatch, classes: tuple[str, ...]) -> Picture:
    """The first images of a batch as a grid, BGR; boxes, masks and rotated boxes drawn in."""
    tiles = [
        draw_sample(image, targets, classes)
        for image, targets in zip(batch.images[:MAX_IMAGES].numpy(), batch.targets, strict=False)
    ]
    return picture_grid(tiles)


def picture_grid(tiles: list[Picture]) -> Picture:
    """Pictures of one size side by side, about as many columns as rows."""
    num_columns = math.ceil(math.sqrt(len(tiles)))
    blank = np.full_like(tiles[0], 255)
    rows = [tiles[start : start + num_columns] for start in range(0, len(tiles), num_columns)]
    return np.vstack([np.hstack([*row, *[blank] * (num_columns - len(row))]) for row in rows])


def draw_sample(image: Picture, targets: ImageTargets, classes: tuple[str, ...]) -> Picture:
    """One image with its targets, made smaller where it is large."""
    height, width = image.shape[:2]
    scale = min(MAX_TILE_SIDE / max(height, width), 1.0)
    labels = targets.labels.tolist()
    picture = image.copy()
    if targets.masks is not None:
        masks = unpack_masks(targets.masks, width // MASK_STRIDE).numpy()
        for mask, label in zip(masks, labels, strict=True):
            _tint(picture, mask, class_colour(label))
    # Its stub forgets the element type.
    picture = cast(
        Picture, cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    )
    for box, label in zip(targets.boxes.numpy(), labels, strict=True):
        corners = np.rint(box_corners(box) * scale).astype(np.int32)
        cv2.polylines(picture, [corners], True, class_colour(label), 2, cv2.LINE_AA)
        topmost = corners[corners[:, 1].argmin()].tolist()
        write_name(picture, classes[label], topmost, label)
    return picture


def _tint(picture: Picture, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Blend `colour` where the mask is; it has one pixel for each 4 x 4 of the picture."""
    height, width = picture.shape[:2]
    rows = np.minimum(np.arange(height) // MASK_STRIDE, len(mask) - 1)
    columns = np.minimum(np.arange(width) // MASK_STRIDE, mask.shape[1] - 1)
    covered = mask[np.ix_(rows, columns)]
    blended = picture[covered] * (1 - _MASK_OPACITY) + np.array(colour) * _MASK_OPACITY
    picture[covered] = blended.astype(np.uint8)
