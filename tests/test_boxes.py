import math
from pathlib import Path

import numpy as np
import pytest
import torch

from model.boxes import decode_boxes, decode_rotated_boxes, input_priors, level_priors
from model.config import STRIDES
from model.decoding import Decoder
from model.heads.outputs import HeadOutputs
from tests.golden import INPUT_SIZE, KINDS, golden_arrays, golden_network, golden_units


def columns(array: np.ndarray) -> torch.Tensor:
    """Rows of numbers [n, c] -> what decoding takes, [1, c, n]."""
    return torch.from_numpy(array).T[None]


def outputs_of(distances: torch.Tensor, angles: torch.Tensor | None = None) -> HeadOutputs:
    """Distances [1, 4, p] on a single row of priors at stride 8; coarser levels stay empty."""
    return HeadOutputs(
        logits=[torch.zeros(1, 1, 1, distances.shape[2])],
        distances=[distances[:, :, None]],
        angles=[] if angles is None else [angles[:, :, None]],
        kernels=[],
        mask_features=None,
    )


# ---------------------------------------------------------------------------------------- priors


def test_level_priors__stand_at_the_corners_row_by_row() -> None:
    assert level_priors(2, 3, 8).tolist() == [
        [0, 0, 8], [8, 0, 8], [16, 0, 8],
        [0, 8, 8], [8, 8, 8], [16, 8, 8],
    ]  # fmt: skip


def test_input_priors__begin_with_the_finest_level() -> None:
    priors = input_priors((64, 96))
    assert priors.shape == (8 * 12 + 4 * 6 + 2 * 3, 3)
    assert priors[:, 2].unique_consecutive().tolist() == list(STRIDES)


@pytest.mark.parity
def test_input_priors__are_the_recorded_ones(shared_folder: Path) -> None:
    arrays = golden_units(shared_folder, "geometry")
    recorded = np.concatenate([arrays[f"priors_256x320_{level}"] for level in range(3)])
    priors = input_priors(INPUT_SIZE)
    np.testing.assert_array_equal(priors, recorded[:, :3])


# ----------------------------------------------------------------------------------- upright boxes


def test_decode_boxes__measures_from_the_point_to_each_side() -> None:
    boxes = decode_boxes(
        torch.tensor([[16.0], [8.0]]), torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    )
    assert boxes[0, :, 0].tolist() == [15, 6, 19, 12]


@pytest.mark.parity
def test_decode_boxes__gives_the_recorded_boxes(shared_folder: Path) -> None:
    arrays = golden_units(shared_folder, "geometry")
    points = torch.from_numpy(arrays["hcoder_points"]).T
    boxes = decode_boxes(points, columns(arrays["hcoder_dist"]))[0].T
    np.testing.assert_array_equal(boxes, arrays["hcoder_decode_noclip"])


@pytest.mark.parity
def test_decoder__clamps_boxes_to_the_input_as_recorded(shared_folder: Path) -> None:
    arrays = golden_units(shared_folder, "geometry")
    decoder = Decoder(INPUT_SIZE)
    # Any points instead of the grid.
    decoder.points = torch.from_numpy(arrays["hcoder_points"]).T
    boxes = decoder(outputs_of(columns(arrays["hcoder_dist"]))).boxes[0].T
    clipped = arrays["hcoder_decode_clip_256x320"]
    np.testing.assert_array_equal(boxes, clipped)
    assert (clipped != arrays["hcoder_decode_noclip"]).any()


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_decoder__joins_levels_in_the_order_of_the_priors(shared_folder: Path, kind: str) -> None:
    arrays = golden_arrays(shared_folder, kind, "forward")
    network = golden_network(shared_folder, kind)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(arrays["input"]))
        dense = Decoder(INPUT_SIZE)(outputs)
    logits = np.concatenate([arrays[f"cls_score_{i}"].reshape(2, 5, -1) for i in range(3)], axis=2)
    np.testing.assert_allclose(dense.logits, logits, atol=3e-4)
    assert dense.boxes.shape == (2, 5 if kind == "rot" else 4, logits.shape[2])
    if kind == "ins":
        kernels = [arrays[f"kernel_pred_{i}"].reshape(2, 169, -1) for i in range(3)]
        np.testing.assert_allclose(dense.kernels, np.concatenate(kernels, axis=2), atol=3e-4)


# ----------------------------------------------------------------------------------- rotated boxes


@pytest.mark.parity
@pytest.mark.parametrize("recorded", ["rcoder_decode", "rcoder_decode_distance2obb"])
def test_decode_rotated_boxes__gives_the_recorded_boxes(shared_folder: Path, recorded: str) -> None:
    arrays = golden_units(shared_folder, "geometry")
    points = torch.from_numpy(arrays["hcoder_points"]).T
    predictions = columns(arrays["rcoder_dist_angle"])
    boxes = decode_rotated_boxes(points, predictions[:, :4], predictions[:, 4:])[0].T
    np.testing.assert_allclose(boxes, arrays[recorded], atol=1e-4)


def test_decode_rotated_boxes__without_angle_is_the_upright_box() -> None:
    points = torch.tensor([[40.0], [50.0]])
    distances = torch.tensor([[[4.0], [8.0], [12.0], [6.0]]])
    upright = decode_boxes(points, distances)[0, :, 0]
    cx, cy, w, h, angle = decode_rotated_boxes(points, distances, torch.zeros(1, 1, 1))[0, :, 0]
    corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    assert corners.tolist() == upright.tolist()
    assert angle == 0


def test_decode_rotated_boxes__turns_clockwise_on_the_screen() -> None:
    # Ten pixels to the right in the box's frame, which is turned by a quarter: ten pixels down.
    distances = torch.tensor([[[0.0], [0.0], [20.0], [0.0]]])
    quarter = torch.full((1, 1, 1), math.pi / 2)
    cx, cy, *_ = decode_rotated_boxes(torch.zeros(2, 1), distances, quarter)[0, :, 0].tolist()
    assert (cx, cy) == (pytest.approx(0, abs=1e-5), pytest.approx(10))


@pytest.mark.parametrize(
    ("raw", "wrapped"),
    [
        (0.3, 0.3),
        (-math.pi / 2 + 0.1, -math.pi / 2 + 0.1),
        (2.0, 2.0 - math.pi),
        (-2.0, math.pi - 2),
    ],
)
def test_decode_rotated_boxes__wraps_angles_to_half_a_turn(raw: float, wrapped: float) -> None:
    boxes = decode_rotated_boxes(torch.zeros(2, 1), torch.ones(1, 4, 1), torch.full((1, 1, 1), raw))
    assert boxes[0, 4, 0].item() == pytest.approx(wrapped, abs=1e-6)


def test_decode_rotated_boxes__keeps_width_and_height_apart() -> None:
    distances = torch.tensor([[[1.0], [5.0], [1.0], [5.0]]])
    boxes = decode_rotated_boxes(torch.zeros(2, 1), distances, torch.zeros(1, 1, 1))
    assert boxes[0, 2:4, 0].tolist() == [2, 10]


def test_decoder__leaves_rotated_boxes_outside_the_input() -> None:
    decoder = Decoder((32, 32))
    decoder.points = torch.zeros(2, 1)
    distances = torch.tensor([[[100.0], [100.0], [0.0], [0.0]]])
    boxes = decoder(outputs_of(distances, torch.zeros(1, 1, 1))).boxes
    assert boxes[0, :4, 0].tolist() == [-50, -50, 100, 100]
