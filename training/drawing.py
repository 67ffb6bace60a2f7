"""What all drawn pictures share: corners of boxes, colours of classes, names. Torch-free."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from model.rotated_iou import rotated_corners

Picture = NDArray[np.uint8]


def box_corners(box: NDArray[np.floating]) -> NDArray[np.float32]:
    """The corners [4, 2] of an xyxy box [4] or a rotated box [5]."""
    if len(box) == 5:
        return rotated_corners(box)[0].astype(np.float32)
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)


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
