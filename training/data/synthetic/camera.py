"""What a camera makes of a painted scene: the last step, from float to uint8."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.surfaces import Pixels, sensor_noise


def photographed(random: np.random.Generator, picture: Pixels) -> NDArray[np.uint8]:
    """The picture as uint8 [h, w, 3] BGR: out of focus or moved, noisy, of some exposure."""
    blur = random.random()
    if blur < 0.4:
        sigma = random.uniform(0.4, 1.2)
        picture = cv2.GaussianBlur(picture, (5, 5), sigma)  # type: ignore[assignment]
    elif blur < 0.5:
        picture = cv2.filter2D(picture, -1, _motion(random))  # type: ignore[assignment]
    noise = np.ascontiguousarray(sensor_noise(random, *picture.shape[:2]))
    exposed = cv2.addWeighted(picture, random.uniform(0.75, 1.2), noise, random.uniform(1, 8), 0)
    np.maximum(exposed, 0, out=exposed)
    return cv2.convertScaleAbs(exposed)  # type: ignore[return-value]


def _motion(random: np.random.Generator) -> Pixels:
    """A kernel [7, 7] that smears along a line of 3 to 6 pixels."""
    kernel = np.zeros((7, 7), np.float32)
    turn, half = random.uniform(0, np.pi), random.uniform(1.0, 2.5)
    along = np.linspace(-half, half, 25)
    rows = np.round(3 + along * np.sin(turn)).astype(int)
    columns = np.round(3 + along * np.cos(turn)).astype(int)
    np.add.at(kernel, (rows, columns), np.float32(1 / 25))
    return kernel
