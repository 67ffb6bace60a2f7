"""From kernels and mask features to instance masks in the original image.

Every instance brings a small network of its own (its kernel), which turns the mask features around
it into mask logits at stride 8. The published post-processing enlarges these twice, bilinearly: by
8 to the network's input, then to the original image. Both steps are linear and treat rows and
columns apart, so here they are one small matrix per axis, of which an instance needs the pixels of
its box and the cells below them. The result is the same, at a small part of the work.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, log

import numpy as np
from numpy.typing import NDArray

from model.masks import InstanceMask
from model.preprocess import Letterbox

Floats = NDArray[np.float32]

#: Channels of the mask features and of a kernel's two hidden layers.
_CHANNELS = 8
#: Pixels of the input per cell of the mask features.
_STRIDE = 8
#: Pixels enlarged at a time, so that their logits stay in the processor's cache.
_PIXELS_PER_BAND = 2**16


def assemble_masks(
    kernels: Floats,
    priors: Floats,
    mask_features: Floats,
    boxes_xyxy: Floats,
    letterbox: Letterbox,
    threshold: float,
    crop_to_boxes: bool,
) -> list[InstanceMask]:
    """Masks of M instances: the pixels of the original image whose probability is > `threshold`.

    `kernels` [M, 169], `priors` [M, 3] (x, y, stride, in pixels of the input), `mask_features`
    [8, h, w] at stride 8 of the input, `boxes_xyxy` [M, 4] in pixels of the original image.
    `crop_to_boxes` leaves out the pixels that the box does not touch, and lays the mask exactly
    over the image; else, as published, a mask may reach anywhere. `threshold` lies between 0 and
    1, both excluded.

    Raises ValueError if the mask features do not belong to the letterbox's input.
    """
    _, height, width = mask_features.shape
    if (height * _STRIDE, width * _STRIDE) != (letterbox.input_height, letterbox.input_width):
        raise ValueError(
            f"mask features of {width}x{height} cells do not belong to an input of "
            f"{letterbox.input_width}x{letterbox.input_height} pixels"
        )
    if crop_to_boxes:
        scale_rows, scale_columns = letterbox.scale_y, letterbox.scale_x
    else:
        scale_rows, scale_columns = _published_scales(letterbox)
        boxes_xyxy = np.full_like(boxes_xyxy, (-np.inf, -np.inf, np.inf, np.inf))
    rows = _enlargement(height, scale_rows, letterbox.image_height)
    columns = _enlargement(width, scale_columns, letterbox.image_width)
    heads = _MaskHeads.of(kernels, priors, mask_features, log(threshold / (1 - threshold)))
    return [
        _assemble(heads, instance, rows, columns, box)
        for instance, box in enumerate(boxes_xyxy.tolist())
    ]


def _published_scales(letterbox: Letterbox) -> tuple[float, float]:
    """Input pixels per image pixel along rows and columns, as the published code has them.

    Reference quirk: it divides the height by the scale of the width, and the width by that of the
    height, and rounds up. They differ by rounding, so a mask is off by up to half a pixel of the
    input at the far end. Where that leaves the last rows without a value, the edge goes on.
    """
    height, width = letterbox.input_height, letterbox.input_width
    return (
        height / ceil(height * (1 / letterbox.scale_x)),
        width / ceil(width * (1 / letterbox.scale_y)),
    )


@dataclass(frozen=True, eq=False)
class _Enlargement:
    """One axis of both interpolations: pixels of the image from cells of the mask features.

    A pixel's logit is `weights` [pixels, cells] times the cells, none of which comes before
    `first_cell` [pixels] or after `last_cell` [pixels]; both grow along the axis.
    """

    weights: Floats
    first_cell: NDArray[np.intp]
    last_cell: NDArray[np.intp]

    def touched(self, low: float, high: float) -> tuple[int, int]:
        """Start and stop of the pixels that have a part between two places."""
        num_pixels = len(self.weights)
        low, high = min(max(low, 0), num_pixels), min(max(high, 0), num_pixels)
        return floor(low), ceil(high)

    def below(self, start: int, stop: int) -> slice:
        """The cells that the pixels start..stop (at least one) depend on."""
        return slice(int(self.first_cell[start]), int(self.last_cell[stop - 1]) + 1)

    def above(self, cells: NDArray[np.intp], start: int, stop: int) -> tuple[int, int]:
        """Start and stop of the pixels of start..stop that may depend on one of `cells`."""
        first = np.searchsorted(self.last_cell, cells[0], side="left")
        last = np.searchsorted(self.first_cell, cells[-1], side="right")
        return max(start, int(first)), min(stop, int(last))


@lru_cache(maxsize=16)
def _enlargement(num_cells: int, scale: float, num_pixels: int) -> _Enlargement:
    """From `num_cells`, by 8 to the input, by 1 / `scale` to the image, cut to `num_pixels`.

    Kept for the last few geometries: frames of a video share one.
    """
    input_size = num_cells * _STRIDE
    low, high, fraction = _neighbours(input_size, num_cells, 1 / _STRIDE)
    to_input = np.zeros((input_size, num_cells), np.float32)
    places = np.arange(input_size)
    to_input[places, low] += 1 - fraction
    to_input[places, high] += fraction
    before, after, fraction = _neighbours(num_pixels, input_size, scale)
    weights = to_input[before] * (1 - fraction)[:, None] + to_input[after] * fraction[:, None]
    return _Enlargement(weights.astype(np.float32), low[before], high[after])


def _neighbours(
    num_outputs: int, num_inputs: int, scale: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """The two inputs that each output lies between, and the weight of the second.

    Bilinear, corners not aligned, `scale` inputs per output; beyond the last input it goes on.
    """
    place = np.maximum((np.arange(num_outputs) + 0.5) * scale - 0.5, 0)
    low = np.minimum(place.astype(np.intp), num_inputs - 1)
    high = np.minimum(low + 1, num_inputs - 1)
    return low, high, np.minimum(place - low, 1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _MaskHeads:
    """The networks of all instances: three 1x1 convolutions each, ReLU between them.

    The first one also sees the position of a cell relative to the instance's prior, in units of
    8 strides: (prior - cell) / (8 * stride). That is linear, so it is folded into the weights of
    planes that all instances share: x, y, the eight features, and one.
    """

    planes: Floats  # [11, h, w]
    first: Floats  # [M, 8, 11]
    second: Floats  # [M, 8, 8]
    second_bias: Floats  # [M, 8, 1]
    third: Floats  # [M, 1, 8]
    third_bias: Floats  # [M, 1, 1]

    @classmethod
    def of(
        cls, kernels: Floats, priors: Floats, mask_features: Floats, shift: float
    ) -> "_MaskHeads":
        """Split `kernels` [M, 169]: all weights, then all biases. `shift` is taken from logits."""
        _, height, width = mask_features.shape
        planes = np.empty((_CHANNELS + 3, height, width), np.float32)
        planes[0] = np.arange(width) * _STRIDE
        planes[1] = (np.arange(height) * _STRIDE)[:, None]
        planes[2:-1] = mask_features
        planes[-1] = 1

        sizes = [_CHANNELS * (_CHANNELS + 2), _CHANNELS**2, _CHANNELS, _CHANNELS, _CHANNELS]
        parts = np.split(kernels, np.cumsum(sizes), axis=1)
        weights = parts[0].reshape(-1, _CHANNELS, _CHANNELS + 2)
        of_place = weights[:, :, :2] / (_CHANNELS * priors[:, 2])[:, None, None]
        bias = parts[3] + (of_place * priors[:, None, :2]).sum(axis=2)
        return cls(
            planes=planes,
            first=np.concatenate([-of_place, weights[:, :, 2:], bias[:, :, None]], axis=2),
            second=parts[1].reshape(-1, _CHANNELS, _CHANNELS),
            second_bias=parts[4][:, :, None],
            third=parts[2][:, None],
            third_bias=parts[5][:, None] - np.float32(shift),
        )

    def logits(self, instance: int, rows: slice, columns: slice) -> Floats:
        """Mask logits of one instance in a rectangle of cells, less the shift."""
        planes = self.planes[:, rows, columns]
        cells = planes.reshape(len(planes), -1)
        hidden = np.maximum(self.first[instance] @ cells, 0)
        hidden = np.maximum(self.second[instance] @ hidden + self.second_bias[instance], 0)
        logits = self.third[instance] @ hidden + self.third_bias[instance]
        return logits.reshape(planes.shape[1:])


def _assemble(
    heads: _MaskHeads,
    instance: int,
    rows: _Enlargement,
    columns: _Enlargement,
    box_xyxy: list[float],
) -> InstanceMask:
    """The mask of one instance inside its box. Logits have the threshold at 0."""
    image_height, image_width = len(rows.weights), len(columns.weights)
    nothing = InstanceMask(0, 0, np.zeros((0, 0), np.bool_), image_width, image_height)
    top, bottom = rows.touched(box_xyxy[1], box_xyxy[3])
    left, right = columns.touched(box_xyxy[0], box_xyxy[2])
    if top >= bottom or left >= right:
        return nothing
    cell_rows, cell_columns = rows.below(top, bottom), columns.below(left, right)
    logits = heads.logits(instance, cell_rows, cell_columns)

    # A pixel is a weighted mean of cells, so it can be on only above a cell that is on.
    on = logits > 0
    on_rows, on_columns = np.flatnonzero(on.any(axis=1)), np.flatnonzero(on.any(axis=0))
    if not len(on_rows):
        return nothing
    top, bottom = rows.above(cell_rows.start + on_rows, top, bottom)
    left, right = columns.above(cell_columns.start + on_columns, left, right)
    if top >= bottom or left >= right:
        return nothing
    row_weights = rows.weights[top:bottom, cell_rows]
    column_weights = columns.weights[left:right, cell_columns]
    crop = _enlarge(logits, row_weights, column_weights)
    return InstanceMask(left, top, crop, image_width, image_height)


def _enlarge(logits: Floats, row_weights: Floats, column_weights: Floats) -> NDArray[np.bool_]:
    """Whether row_weights [h, r] @ logits [r, c] @ column_weights [w, c].T is positive: [h, w].

    Computed and stored column by column, the order in which run lengths are counted.
    """
    halfway = column_weights @ logits.T
    width, height = len(column_weights), len(row_weights)
    on = np.empty((width, height), np.bool_)
    band = max(1, _PIXELS_PER_BAND // height)
    for start in range(0, width, band):
        part = slice(start, start + band)
        np.greater(halfway[part] @ row_weights.T, 0, out=on[part])
    return on.T
