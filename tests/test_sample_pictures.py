import math

import numpy as np
import pytest
import torch

from training.drawing import box_corners, class_colour
from training.sample_pictures import draw_batch
from training.targets import DetectionBatch, Targets


def batch(boxes: torch.Tensor, **more: torch.Tensor) -> DetectionBatch:
    targets = Targets(boxes, torch.zeros(len(boxes), dtype=torch.int64), (len(boxes), 0), **more)
    return DetectionBatch(torch.full((2, 64, 96, 3), 128, dtype=torch.uint8), targets)


def test_draw_batch__is_a_grid_of_all_images() -> None:
    picture = draw_batch(batch(torch.tensor([[8.0, 30, 40, 60]])), ("cat",))
    assert picture.shape == (64, 192, 3)
    assert (picture[45, 8] == class_colour(0)).all()
    assert (picture[45, 24] == 128).all()
    assert (picture[:, 96:] == 128).all()


def test_draw_batch__masks_stand_where_they_were() -> None:
    mask = np.zeros((1, 16, 24), np.uint8)
    mask[0, 8:12, 4:8] = 1
    packed = torch.from_numpy(np.packbits(mask, axis=-1))
    picture = draw_batch(batch(torch.tensor([[0.0, 0, 95, 63]]), masks=packed), ("cat",))
    tinted = (picture[:, :96] != 128).any(axis=2)
    assert tinted[32:48, 16:32].all()
    assert not tinted[50:60, 40:90].any()


@pytest.mark.parametrize("turn", [0.0, math.pi / 2])
def test_box_corners__of_a_rotated_box(turn: float) -> None:
    corners = box_corners(np.array([10, 20, 8, 4, turn], np.float32))
    width, height = np.ptp(corners, axis=0)
    expected = (8, 4) if turn == 0 else (4, 8)
    assert (width, height) == pytest.approx(expected, abs=1e-5)
    assert corners.mean(axis=0) == pytest.approx([10, 20])
