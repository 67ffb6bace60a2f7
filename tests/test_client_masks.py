"""Masks in three formats, from what the server writes to arrays."""

import base64
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_arrays
from numpy.typing import NDArray

from model.masks import InstanceMask, dense
from service.client import (
    BadAnswer,
    Client,
    DetectionResult,
    PolygonMask,
    RleMask,
)
from service.client.answers import Answer, read_detection
from service.client.masks import PngMask, Polygon
from service.client.options import MaskFormat
from service.detection import (
    Detection,
    ModelIdentity,
    Timings,
)
from service.detection import DetectionResult as ServedResult
from service.detection import (
    MaskFormat as ServedMaskFormat,
)
from service.http_api.app import create_app
from service.http_api.schemas import detection_json
from service.settings import Settings
from service.wiring import build_detector
from tests.conftest import PROJECT
from tests.servers import running_server


def png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def served(mask: InstanceMask, mask_format: ServedMaskFormat) -> DetectionResult:
    """The client's result of what the server writes."""
    found = Detection("car", 1, 0.9, (0.0, 0.0, 1.0, 1.0), mask)
    identity = ModelIdentity("masks", "1", "instance")
    height, width = mask.image_height, mask.image_width
    result = ServedResult(identity, width, height, [found], Timings(0, 0, 0, 0, 0), 1)
    body = detection_json(result, "req_1", mask_format)
    return read_detection(Answer(200, {"content-type": "application/json"}, body))


@st.composite
def masks(draw: st.DrawFn) -> InstanceMask:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    crop_height, crop_width = draw(st.integers(0, height)), draw(st.integers(0, width))
    crop = draw(hypothesis_arrays.arrays(np.bool_, (crop_height, crop_width)))
    x, y = draw(st.integers(0, width - crop_width)), draw(st.integers(0, height - crop_height))
    return InstanceMask(x, y, crop, width, height)


@pytest.mark.parametrize(
    ("mask_format", "expected"), [("rle", RleMask), ("polygon", PolygonMask), ("png", PngMask)]
)
@given(mask=masks())
@settings(deadline=None)
def test_mask__every_format_becomes_the_array_that_was_meant(
    mask_format: ServedMaskFormat, expected: type, mask: InstanceMask
) -> None:
    read = served(mask, mask_format).detections[0].mask
    assert isinstance(read, expected)
    array = read.to_array()
    assert (array.dtype, array.flags.c_contiguous) == (np.bool_, True)
    np.testing.assert_array_equal(array, dense(mask))


def test_mask__long_runs() -> None:
    """Numbers of many characters, and differences of either sign."""
    crop = np.zeros((3000, 2000), np.bool_)
    crop[10:2990, 5] = crop[1, 9] = crop[:, 700:1500] = crop[17:19, 1999] = True
    mask = InstanceMask(7, 11, crop, 2100, 3100)
    read = served(mask, "rle").detections[0].mask
    assert read is not None
    np.testing.assert_array_equal(read.to_array(), dense(mask))


def test_mask__slanted_outline_takes_the_pixels_whose_middle_is_inside() -> None:
    triangle = Polygon(((0.0, 0.0), (4.0, 0.0), (0.0, 4.0)))
    array = PolygonMask("polygon", (4, 5), (triangle,)).to_array()
    assert array.astype(int).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_mask__outline_beyond_the_picture_is_cut() -> None:
    square = Polygon(((-5.0, -5.0), (99.0, -5.0), (99.0, 2.0), (-5.0, 2.0)))
    array = PolygonMask("polygon", (3, 2), (square, Polygon(()))).to_array()
    assert array.tolist() == [[True, True], [True, True], [False, False]]


DAMAGED = {
    "empty": RleMask("rle", (4, 6), ""),
    "too short": RleMask("rle", (4, 6), "5"),
    "too long": RleMask("rle", (4, 6), "5" * 40),
    "ends within a number": RleMask("rle", (4, 6), "5T"),
    "negative run": RleMask("rle", (4, 6), "O"),
    "huge run": RleMask("rle", (4, 6), "o" * 12 + "1"),
    "no run lengths": RleMask("rle", (4, 6), "\x7f\x7f"),
    "not ASCII": RleMask("rle", (4, 6), "é"),
    "no base64": PngMask("png", (4, 6), "%"),
    "no PNG": PngMask("png", (4, 6), base64.b64encode(bytes(40)).decode()),
    "PNG of another size": PngMask(
        "png", (6, 4), base64.b64encode(png(np.zeros((4, 6), np.uint8))).decode()
    ),
    "half a PNG": PngMask(
        "png", (4, 6), base64.b64encode(png(np.zeros((4, 6), np.uint8))[:30]).decode()
    ),
    "coloured PNG": PngMask(
        "png", (4, 6), base64.b64encode(png(np.zeros((4, 6, 3), np.uint8))).decode()
    ),
}


@pytest.mark.parametrize("mask", DAMAGED.values(), ids=DAMAGED)
def test_mask__damaged_one_is_a_bad_answer(mask: RleMask | PngMask) -> None:
    with pytest.raises(BadAnswer, match="damaged mask"):
        mask.to_array()


def test_mask__of_a_real_model_is_the_same_in_every_format() -> None:
    """The project's own model on the runtime that serves."""
    chosen = Settings(
        model_repository=PROJECT / "triton_repo",
        models=("rtmdet-ins-nano-shapes",),
        precision="f32",
    )
    picture = PROJECT / "examples" / "pictures" / "shapes-1.jpg"
    app = create_app(build_detector(chosen), max_buffered_bytes=10**8)
    with running_server(app) as server, Client(str(server.base_url)) as client:
        results = [client.detect(picture, mask_format=each) for each in get_args(MaskFormat)[1:]]
        assert client.detect(picture, mask_format="none").detections[0].mask is None
    assert len(results[0].detections) > 5
    for founds in zip(*(result.detections for result in results), strict=True):
        run_lengths, outlines, picture_of_mask = (found.mask.to_array() for found in founds)
        assert run_lengths.any()
        np.testing.assert_array_equal(run_lengths, outlines)
        np.testing.assert_array_equal(run_lengths, picture_of_mask)
