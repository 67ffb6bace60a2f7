"""Large images seen in windows: cut as training sets are, their detections merged as DOTA does.

A network sees each window as an image of its own; what it finds there is shifted to its place in
the image, and of what was found in several windows the best stays.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.config import Task
from model.masks import InstanceMask, encode_rle
from model.nms import nms, rotated_nms
from model.postprocess import PUBLISHED_SETTINGS
from training.data.formats.tiling import PUBLISHED_TILING, Tiling, patch_of, windows_of
from training.data.run_lengths import decoded
from training.data.sampling.images import Pixels, read_image
from training.evaluation.inference import ImageFiles
from training.evaluation.instances import Found

_Rows = NDArray[np.intp]


class LargeImages(ImageFiles, Protocol):
    """Images of any size; a `DetectionIndex` is one."""

    def __len__(self) -> int:
        """Number of images."""
        ...


class TiledImages:
    """The windows of all images, by position: those of the first image, of the second, and so on.

    Neighbouring windows of `patch_size` pixels a side share `overlap`; the last of a row ends at
    the image's border. A smaller image has one window, grey where there is no image. To be read
    from several threads, in about this order: the image that was read last is remembered.

    Raises ValueError unless 0 <= overlap < patch_size.
    """

    def __init__(
        self,
        images: LargeImages,
        patch_size: int = PUBLISHED_TILING.patch_size,
        overlap: int = PUBLISHED_TILING.overlap,
    ) -> None:
        self.are_upright = images.are_upright
        self._images = images
        self._tiling = Tiling(patch_size=patch_size, overlap=overlap)
        windows = [
            list(windows_of(*images.image_size(position), self._tiling))
            for position in range(len(images))
        ]
        self._windows = [window for of_image in windows for window in of_image]
        #: Where the windows of each image begin and, last, where all end.
        self._starts = np.cumsum([0, *map(len, windows)])
        self._reading = threading.Lock()
        self._last_read: tuple[int, Pixels] | None = None

    def __len__(self) -> int:
        return len(self._windows)

    def windows_in(self, image: int) -> range:
        """The positions of an image's windows."""
        start, stop = self._starts[image : image + 2].tolist()
        return range(start, stop)

    def image_path(self, position: int) -> Path:
        """Where the image lies of which this is a window."""
        return self._images.image_path(self._image_of(position))

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width of the window."""
        side = self._windows[position].side
        return side, side

    def read_image(self, position: int) -> Pixels:
        """The window: uint8 [side, side, 3] BGR. Raises UnreadableImage."""
        window, image = self._windows[position], self._image_of(position)
        # One at a time: threads that want windows of one image wait until it is decoded.
        with self._reading:
            if self._last_read is None or self._last_read[0] != image:
                self._last_read = None
                self._last_read = image, self._read(image)
            pixels = self._last_read[1]
        return patch_of(pixels, window, window.side)

    def merged(self, found: Found, iou_threshold: float | None = None) -> Found:
        """The detections in the windows as detections in the images; `images` counts these.

        Of detections of one class in one image that overlap by more than `iou_threshold` the best
        stays; by default that of the published post-processing, which is 0.1 for rotated boxes, as
        DOTA merges. What a border cut off gives way to the whole if it is more of it than that: at
        0.1 only slivers stay, at the thresholds of upright boxes larger pieces. An image with one
        window is left as it is.
        """
        task = _task_of(found)
        if iou_threshold is None:
            iou_threshold = PUBLISHED_SETTINGS[task].iou_threshold
        images = np.searchsorted(self._starts, found.images, "right") - 1
        boxes = self._placed_boxes(found)
        suppress = rotated_nms if task == "rotated" else nms
        kept = [np.zeros(0, np.intp)]
        for image, rows in _grouped(images):
            if len(self.windows_in(image)) > 1:
                suppressed = suppress(
                    boxes[rows], found.scores[rows], found.labels[rows], iou_threshold
                )
                rows = rows[suppressed]
            kept.append(rows)
        rows = np.concatenate(kept)
        masks = None if found.masks is None else tuple(self._placed_mask(found, r) for r in rows)
        return Found(images[rows], found.labels[rows], found.scores[rows], boxes[rows], masks)

    def _image_of(self, position: int) -> int:
        return int(np.searchsorted(self._starts, position, "right")) - 1

    def _read(self, image: int) -> Pixels:
        path, size = self._images.image_path(image), self._images.image_size(image)
        return read_image(path, size, upright=self.are_upright)

    def _placed_boxes(self, found: Found) -> NDArray[np.float64]:
        """The boxes in pixels of their images."""
        corners = np.array([(each.left, each.top) for each in self._windows]).reshape(-1, 2)
        boxes = found.boxes.astype(np.float64)
        boxes[:, :2] += corners[found.images]
        if boxes.shape[1] == 4:
            boxes[:, 2:] += corners[found.images]
        return boxes

    def _placed_mask(self, found: Found, row: int) -> bytes:
        """The mask as run lengths of its whole image."""
        assert found.masks is not None
        position = int(found.images[row])
        window = self._windows[position]
        height, width = self._images.image_size(self._image_of(position))
        seen = decoded(found.masks[row], window.side, window.side)
        crop = seen[: height - window.top, : width - window.left].astype(np.bool_)
        mask = InstanceMask(window.left, window.top, crop, width, height)
        return encode_rle(mask)["counts"].encode("ascii")


def _task_of(found: Found) -> Task:
    if found.boxes.shape[1] == 5:
        return "rotated"
    return "detect" if found.masks is None else "instance"


def _grouped(images: NDArray[np.intp]) -> Iterator[tuple[int, _Rows]]:
    """Every image that occurs, in order, and its rows."""
    order = np.argsort(images, kind="stable")
    present, starts = np.unique(images[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts)[1:], strict=True)
