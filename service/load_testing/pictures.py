"""The pictures that are sent: files, or one of our own."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from service.load_testing.request_bytes import Picture

#: Grain sizes of the layers, as parts of the picture's side; the finest is the sensor's noise.
_LAYERS = ((80, 25.0), (20, 25.0), (4, 25.0), (1, 6.0))


def read_pictures(paths: Sequence[Path]) -> list[Picture]:
    """As they are: whether they are good is for the server to say. Raises OSError, ValueError."""
    pictures = [Picture(path.read_bytes(), path.name) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if not picture.content:
            raise ValueError(f"{path} is empty; give pictures")
    return pictures


def photograph(width: int, height: int) -> Picture:
    """A JPEG with the detail, and so the size and the decoding time, of an ordinary photograph.

    The same bytes for the same size.
    """
    rng = np.random.default_rng(0)
    picture = np.full((height, width, 3), 128.0, np.float32)
    for grain, strength in _LAYERS:
        small = (max(1, height // grain), max(1, width // grain), 3)
        layer = rng.normal(0, strength, small).astype(np.float32)
        picture += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    _, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return Picture(content.tobytes(), f"photograph-{width}x{height}.jpg")
