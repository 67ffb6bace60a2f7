import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.graph import Normalise
from model.preprocess import PAD_VALUE, letterbox, letterbox_into, letterbox_of

RECORDED = ("480x640", "333x500")


@pytest.mark.parity
@pytest.mark.parametrize("name", RECORDED)
def test_letterbox__and_normalise_give_the_recorded_input(shared_folder: Path, name: str) -> None:
    folder = shared_folder / "reference" / "golden" / "preproc"
    recorded = np.load(folder / "preproc.npz")
    meta = json.loads((folder / "preproc.json").read_text())[name]["meta"]
    pixels, geometry = letterbox(recorded[f"{name}_input_bgr_u8"], 640, 640)
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), recorded[f"{name}_padded_u8_chw"])
    assert [geometry.scale_x, geometry.scale_y] == meta["scale_factor"]
    assert [geometry.image_height, geometry.image_width] == meta["ori_shape"]
    tensor = Normalise()(torch.from_numpy(pixels[None]))[0].numpy()
    np.testing.assert_allclose(
        tensor[:, ::8, ::8], recorded[f"{name}_tensor_sub8"], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(tensor[:, 37], recorded[f"{name}_tensor_row37"], rtol=0, atol=1e-5)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 20).map(lambda n: n * 32),
    st.integers(1, 20).map(lambda n: n * 32),
)
def test_letterbox_of__image_fits_and_touches_a_side(
    width: int, height: int, input_width: int, input_height: int
) -> None:
    geometry = letterbox_of(width, height, input_width, input_height)
    resized_width = round(geometry.scale_x * width)
    resized_height = round(geometry.scale_y * height)
    assert 1 <= resized_width <= input_width
    assert 1 <= resized_height <= input_height
    assert resized_width == input_width or resized_height == input_height


def test_letterbox__image_of_the_inputs_size_is_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    pixels, geometry = letterbox(image, 96, 64)
    np.testing.assert_array_equal(pixels, image)
    assert (geometry.scale_x, geometry.scale_y) == (1.0, 1.0)


def test_letterbox_into__row_of_a_batch_leaves_the_others_alone() -> None:
    batch = np.full((3, 64, 64, 3), 7, np.uint8)
    letterbox_into(np.zeros((20, 40, 3), np.uint8), batch[1])
    assert (batch[[0, 2]] == 7).all()
    assert (batch[1, :32] == 0).all()
    assert (batch[1, 32:] == PAD_VALUE).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2000, 3)])
def test_letterbox__extreme_shapes(shape: tuple[int, int]) -> None:
    pixels, geometry = letterbox(np.zeros((*shape, 3), np.uint8), 64, 64)
    assert pixels.shape == (64, 64, 3)
    assert geometry.scale_x > 0
    assert geometry.scale_y > 0
