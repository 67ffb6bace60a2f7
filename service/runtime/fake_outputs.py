"""What the fake runtime sees in pictures: the outputs of an exported graph, by arithmetic alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import Task

Floats = NDArray[np.float32]

#: Of the first detection; each further one scores a little less, so that their order is known.
FIRST_SCORE = 0.9
_SCORE_STEP = 0.001

#: By how much each detection lies right of and below the one before, in pixels of the input.
_MOVED_BY = (61, 37)

#: Rotated boxes are half as high as wide, and turned by this.
ANGLE_RAD = 0.5

_STRIDE = 8
_MASK_CHANNELS = 8
_KERNEL_PARAMETERS = 169


@dataclass(frozen=True)
class FakeModel:
    """What a fake runtime pretends to run; `num_detections` are those of each picture."""

    task: Task = "detect"
    num_classes: int = 1
    num_detections: int = 1


#: What tests mostly need: its one box is all that the first pixel says.
ONE_BOX = FakeModel()


def fake_outputs(images: NDArray[np.uint8], model: FakeModel) -> dict[str, NDArray[Any]]:
    """The outputs of such a model: uint8 BGR [n, h, w, 3] -> arrays whose first axis is n.

    The first pixel (b, g, r) says where the first box is: its corner is (b, g), its side r + 1. The
    next ones have the same size and begin further to the right and below, inside the input. Classes
    are 0, 1, 2 and so on, in turn. A mask is a rhombus, from the middle of one side of the box to
    the middle of the next. A rotated box has the centre and the width of the upright one.
    """
    corners, sides = _corners_and_sides(images, model.num_detections)
    shape = corners.shape[:2]
    order = np.arange(model.num_detections)
    outputs: dict[str, NDArray[Any]] = {
        "boxes": _rotated(corners, sides) if model.task == "rotated" else _upright(corners, sides),
        "scores": np.tile((FIRST_SCORE - _SCORE_STEP * order).astype(np.float32), (shape[0], 1)),
        "labels": np.tile((order % model.num_classes).astype(np.int32), (shape[0], 1)),
    }
    if model.task == "instance":
        height, width = images.shape[1] // _STRIDE, images.shape[2] // _STRIDE
        outputs["kernels"] = _rhombus_kernels(sides)
        outputs["priors"] = np.concatenate(
            (corners + sides * np.float32(0.5), np.full((*shape, 1), _STRIDE, np.float32)), axis=2
        )
        features = (len(images), _MASK_CHANNELS, height, width)
        outputs["mask_features"] = np.zeros(features, np.float32)
    return outputs


def _corners_and_sides(images: NDArray[np.uint8], num_detections: int) -> tuple[Floats, Floats]:
    """Corners [n, k, 2] and sides [n, k, 1], in pixels of the input."""
    pixels = images[:, 0, 0, :].astype(np.float32)
    moved = np.arange(num_detections, dtype=np.float32)[:, None] * np.array(_MOVED_BY, np.float32)
    corners = pixels[:, None, :2] + moved
    corners[:, 1:] %= np.array((images.shape[2], images.shape[1]), np.float32)
    sides = np.repeat(pixels[:, None, 2:] + np.float32(1), num_detections, axis=1)
    return corners.astype(np.float32), sides.astype(np.float32)


def _upright(corners: Floats, sides: Floats) -> Floats:
    """[n, k, 4]: x1, y1, x2, y2."""
    return np.concatenate((corners, corners + sides), axis=2, dtype=np.float32)


def _rotated(corners: Floats, sides: Floats) -> Floats:
    """[n, k, 5]: cx, cy, width, height, angle."""
    angles = np.full_like(sides, ANGLE_RAD)
    halves = sides * np.float32(0.5)
    return np.concatenate((corners + halves, sides, halves, angles), axis=2, dtype=np.float32)


def _rhombus_kernels(sides: Floats) -> Floats:
    """Kernels [n, k, 169] of networks that are positive where |dx| + |dy| < side / 2.

    dx and dy are what every such network is given first: the way from the cell to the prior, in
    units of eight strides. The first layer takes both signs of both apart, the second hands them
    on, the third takes their sum from half the side.
    """
    first = np.zeros((8, 10), np.float32)
    first[:4, :2] = (1, 0), (-1, 0), (0, 1), (0, -1)
    second = np.zeros((8, 8), np.float32)
    second[:4, :4] = np.eye(4)
    third = np.zeros(8, np.float32)
    third[:4] = -1
    weights = np.concatenate((first.ravel(), second.ravel(), third))
    kernels = np.zeros((*sides.shape[:2], _KERNEL_PARAMETERS), np.float32)
    kernels[..., : len(weights)] = weights
    kernels[..., -1] = sides[..., 0] / 2 / (8 * _STRIDE)
    return kernels
