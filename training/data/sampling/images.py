"""Images from disk, as training sees them, and a memory of what was decoded, bounded in bytes.

Everything that is remembered is read-only, so that it is handed out without a copy.
"""

from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from training.data.decoding import Pixels, decode

Value = TypeVar("Value")


class UnreadableImage(ValueError):
    """A file that is not the image that its annotations describe; the message is one line."""


def read_image(path: Path, size: tuple[int, int], *, upright: bool) -> Pixels:
    """Read an image whose annotations count `size` (height, width): uint8 [h, w, 3] BGR, read-only.

    `upright`: with the orientation of the file's metadata applied, as viewers show it. Otherwise as
    it is stored, unless only the upright picture has that size. Raises UnreadableImage.
    """
    try:
        stored = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from None
    return decode_image(stored, path, size, upright=upright)


def decode_image(stored: Pixels, path: Path, size: tuple[int, int], *, upright: bool) -> Pixels:
    """The same from the bytes [n] of the file; `path` is for messages."""
    found = "no image that can be decoded"
    for orientation in (0,) if upright else (cv2.IMREAD_IGNORE_ORIENTATION, 0):
        image = decode(stored, cv2.IMREAD_COLOR | orientation)
        if image is None:
            break
        if image.shape[:2] == size:
            image.flags.writeable = False
            return image
        found = f"{image.shape[1]}x{image.shape[0]} pixels"
    raise UnreadableImage(f"{path}: {found}, annotated as {size[1]}x{size[0]}")


class Memory(Generic[Value]):
    """The values used last, as many as fit into `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """The value, or None when it was never stored or has been forgotten."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: Value, num_bytes: int) -> None:
        """Store a value of that size; what was used longest ago leaves. Too large: not stored."""
        if num_bytes > self.max_bytes or key in self._values:
            return
        self._values[key] = (value, num_bytes)
        self.num_bytes += num_bytes
        while self.num_bytes > self.max_bytes:
            _, (_, freed) = self._values.popitem(last=False)
            self.num_bytes -= freed
