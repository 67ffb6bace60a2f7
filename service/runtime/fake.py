"""A runtime without a network, for tests of what stands around one: ours and users' own.

It draws its detections from the picture itself: each is a function of the pixels of one cell, so
that an answer given to the wrong request shows.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.runtime.base import Outputs


class FakeRuntime:
    """Detects one box per picture, whose corner is written in the picture's first pixel.

    The first pixel (b, g, r) gives x = b, y = g and the box's side r + 1; the score is 0.9, the
    class 0. `seconds_per_call` and `seconds_per_image` are slept; `fault`, called with the batch
    before the answer, may raise or block.
    """

    description = "fake"
    output_names = ("boxes", "scores", "labels")

    def __init__(
        self,
        *,
        max_batch_size: int = 8,
        concurrency: int = 1,
        seconds_per_call: float = 0.0,
        seconds_per_image: float = 0.0,
        fault: Callable[[NDArray[np.uint8]], None] | None = None,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.concurrency = concurrency
        self.batch_sizes: list[int] = []
        self._seconds_per_call = seconds_per_call
        self._seconds_per_image = seconds_per_image
        self.fault = fault
        self._lock = threading.Lock()

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8 BGR [n, h, w, 3] -> boxes [n, 1, 4], scores [n, 1], labels [n, 1]."""
        with self._lock:
            self.batch_sizes.append(len(images))
        if self.fault is not None:
            self.fault(images)
        time.sleep(self._seconds_per_call + self._seconds_per_image * len(images))
        pixels = images[:, 0, 0, :].astype(np.float32)
        corners = pixels[:, :2]
        boxes = np.concatenate((corners, corners + pixels[:, 2:] + 1), axis=1)
        return {
            "boxes": boxes[:, None, :],
            "scores": np.full((len(images), 1), 0.9, np.float32),
            "labels": np.zeros((len(images), 1), np.int32),
        }

    def close(self) -> None:
        """Nothing is held."""
