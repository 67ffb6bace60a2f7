"""What is to be found in a batch of images: packed tensors, as the criterion takes them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

#: Every how many pixels of the input the mask loss looks at, and where it starts (`[2::4, 2::4]`).
MASK_STRIDE = 4
MASK_OFFSET = 2


class ImageTargets(NamedTuple):
    """One image's rows of `Targets`."""

    boxes: Tensor
    labels: Tensor
    centres: Tensor | None
    masks: Tensor | None


@dataclass(frozen=True, eq=False)
class Targets:
    """The annotated instances of a batch; image i owns the next `counts[i]` rows.

    `boxes` float32 [t, 4] xyxy, or [t, 5] (cx, cy, w, h, angle in radians, not regularised), in
    pixels of the input. `labels` int64 [t]. For instance models `centres` float32 [t, 2]: the
    masks' centres of mass (x, y) in pixel indices at full resolution; and `masks` uint8
    [t, h // 4, ceil(w // 4 / 8)]: the masks at [2::4, 2::4], eight pixels to a byte along the
    rows, first pixel in the highest bit (`numpy.packbits`).
    """

    boxes: Tensor
    labels: Tensor
    counts: tuple[int, ...]
    centres: Tensor | None = None
    masks: Tensor | None = None

    def __iter__(self) -> Iterator[ImageTargets]:
        """Image by image."""
        start = 0
        for count in self.counts:
            rows = slice(start, start + count)
            yield ImageTargets(
                self.boxes[rows],
                self.labels[rows],
                None if self.centres is None else self.centres[rows],
                None if self.masks is None else self.masks[rows],
            )
            start += count

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Targets":
        """The same on another device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            centres=moved(self.centres),
            masks=moved(self.masks),
        )

    def pin_memory(self) -> "Targets":
        """The same in page-locked memory; torch's loader calls it."""

        def pinned(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.pin_memory()

        return replace(
            self,
            boxes=self.boxes.pin_memory(),
            labels=self.labels.pin_memory(),
            centres=pinned(self.centres),
            masks=pinned(self.masks),
        )


def unpack_masks(masks: Tensor, width: int) -> Tensor:
    """Packed rows [..., h, ceil(w / 8)] -> bool [..., h, w]."""
    shifts = torch.arange(7, -1, -1, device=masks.device, dtype=torch.uint8)
    bits = (masks.unsqueeze(-1) >> shifts) & 1
    return bits.flatten(-2)[..., :width].bool()


@dataclass(frozen=True, eq=False)
class DetectionBatch:
    """What a step trains on. `images` uint8 [n, h, w, 3] BGR.

    `problems` says, one line each, which images could not be read and were replaced.
    """

    images: Tensor
    targets: Targets
    problems: tuple[str, ...] = ()

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "DetectionBatch":
        """The same on another device."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "DetectionBatch":
        """The same in page-locked memory; torch's loader calls it."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())
