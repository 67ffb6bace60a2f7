"""Time drawing detections against copying the picture and encoding it, which an answer needs too.

    python -m benchmarks.draw

Prints median milliseconds for each picture size and number of detections with masks.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import cv2
import numpy as np

from model.masks import InstanceMask
from service.codecs.drawing import draw_detections, encode_picture
from service.detection import Detection

CASES = ((640, 480, 10), (640, 480, 100), (1920, 1080, 10), (1920, 1080, 100), (1920, 1080, 300))
ROUNDS = 9


def elliptic_detection(rng: np.random.Generator, width: int, height: int) -> Detection:
    """An object of 6 to 40 % of the picture's sides, with a mask."""
    crop_width, crop_height = (int(side * rng.uniform(0.06, 0.4)) for side in (width, height))
    x, y = int(rng.uniform(0, width - crop_width)), int(rng.uniform(0, height - crop_height))
    crop = np.zeros((crop_height, crop_width), np.uint8)
    cv2.ellipse(
        crop,
        (crop_width // 2, crop_height // 2),
        (crop_width // 2, crop_height // 2),
        0,
        0,
        360,
        1,
        -1,
    )
    return Detection(
        label="traffic light",
        class_id=int(rng.integers(80)),
        score=float(rng.uniform(0.3, 1)),
        box=(float(x), float(y), float(x + crop_width), float(y + crop_height)),
        mask=InstanceMask(x, y, crop.astype(np.bool_), width, height),
    )


def milliseconds(function: Callable[[], object]) -> float:
    """The median time of a call, after one that is not counted."""
    function()
    times: list[float] = []
    for _ in range(ROUNDS):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return median(times) * 1e3


def main() -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    titles = ("size", "detections", "copy ms", "draw ms", "JPEG ms")
    print("{:>10} {:>11} {:>8} {:>8} {:>8}".format(*titles))
    for width, height, num_detections in CASES:
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        cv2.GaussianBlur(picture, (0, 0), 5, dst=picture)
        detections = [elliptic_detection(rng, width, height) for _ in range(num_detections)]
        copying = milliseconds(picture.copy)
        drawing = milliseconds(lambda p=picture, d=detections: draw_detections(p, d))
        encoding = milliseconds(lambda p=picture: encode_picture(p, "jpeg"))
        print(
            f"{width:>5}x{height:<4} {num_detections:>11} {copying:>8.2f} {drawing:>8.1f} "
            f"{encoding:>8.1f}"
        )


if __name__ == "__main__":
    main()
