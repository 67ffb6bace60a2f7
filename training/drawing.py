"""What all drawn pictures share: corners of boxes, colours of classes, names. Torch-free."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def box_corners(box: NDArray[np.floating]) -> NDArray[np.float32]:
    """The corners [4, 2] of an xyxy box [4] or a rotated box [5]."""
    if len(box) == 4:
        x1, y1, x2, y2 = box
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
    cx, cy, width, height, angle_rad = box
    along = np.array([math.cos(angle_rad), math.sin(angle_rad)]) * width / 2
    across = np.array([-math.sin(angle_rad), math.cos(angle_rad)]) * height / 2
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return (np.array([cx, cy]) + signs @ np.stack([along, across])).astype(np.float32)


def class_colour(label: int) -> tuple[int, int, int]:
    """A colour (B, G, R) of the class; neighbours are far apart on the wheel."""
    hue = int(label * 180 * 0.618034) % 180
    blue, green, red = cv2.cvtColor(np.array([[[hue, 200, 230]]], np.uint8), cv2.COLOR_HSV2BGR)[
        0, 0
    ].tolist()
    return blue, green, red


def write_name(picture: Picture, name: str, place: Sequence[int], label: int) -> None:
    """Write the name of a class at (x, y), on a dark ground, moved inside the picture."""
    (width, height), below = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    x = min(max(place[0], 0), max(picture.shape[1] - width, 0))
    y = min(max(place[1], height + below), picture.shape[0] - below)
    cv2.rectangle(picture, (x, y - height - below), (x + width, y + below), (32, 32, 32), -1)
    ink = class_colour(label)
    cv2.putText(picture, name, (x, y - 1), cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, 1, cv2.LINE_AA)
