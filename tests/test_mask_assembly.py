"""Where masks come to lie in the image."""

import numpy as np
import pytest

from model.mask_assembly import assemble_masks
from model.preprocess import letterbox_of


def passing_kernel() -> np.ndarray:
    """The mask network whose logit is the first mask feature itself."""
    first = np.zeros((8, 10), np.float32)
    first[0, 2], first[1, 2] = 1, -1
    second = np.eye(8, dtype=np.float32)
    third = np.array([1, -1, 0, 0, 0, 0, 0, 0], np.float32)
    weights = [first.ravel(), second.ravel(), third]
    return np.concatenate([*weights, np.zeros(17, np.float32)])[None]


@pytest.mark.parametrize(("width", "height"), [(6000, 4001), (1283, 1921), (640, 640), (3001, 401)])
@pytest.mark.parametrize("axis", [0, 1])
def test_assemble_masks__edge_lies_where_the_letterbox_says(
    width: int, height: int, axis: int
) -> None:
    """A ramp that crosses zero at a known place of the input, near its far end."""
    letterbox = letterbox_of(width, height, 640, 640)
    scale = letterbox.scale_y if axis == 0 else letterbox.scale_x
    size = height if axis == 0 else width
    edge = round(0.95 * size)
    crossing = edge * scale / 8 - 0.5
    ramp = np.arange(80, dtype=np.float32) - np.float32(crossing)
    features = np.zeros((8, 80, 80), np.float32)
    features[0] = ramp[:, None] if axis == 0 else ramp[None, :]
    (mask,) = assemble_masks(
        passing_kernel(),
        np.array([[0, 0, 8]], np.float32),
        features,
        np.array([[0, 0, width, height]], np.float32),
        letterbox,
        threshold=0.5,
        crop_to_boxes=True,
    )
    start = mask.y if axis == 0 else mask.x
    assert abs(start + int(np.argmax(mask.crop.any(axis=1 - axis))) - edge) <= 1
    assert mask.crop.any()
