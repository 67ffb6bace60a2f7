import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from model.masks import InstanceMask, dense, encode_png, encode_rle, polygons

# pycocotools 2.0.11 gives numpy 2 an array that cannot say whether it copies.
decodes_rle = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@st.composite
def masks(draw):
    """Crops anywhere in small images: also as large as the image, also without pixels."""
    width, height = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    x, y = draw(st.integers(0, width)), draw(st.integers(0, height))
    shape = draw(st.integers(0, height - y)), draw(st.integers(0, width - x))
    if draw(st.booleans()):
        x, y, shape = 0, 0, (height, width)
    crop = draw(arrays(np.bool_, shape))
    return InstanceMask(
        x, y, np.asfortranarray(crop) if draw(st.booleans()) else crop, width, height
    )


def mask_of(picture) -> InstanceMask:
    crop = np.asarray(picture, np.bool_)
    return InstanceMask(0, 0, crop, crop.shape[1], crop.shape[0])


def filled(regions, height, width):
    """The pixels inside the rings: each upright edge turns over all pixels to its right."""
    picture = np.zeros((height, width), np.bool_)
    for region in regions:
        for ring in [region["exterior"], *region["holes"]]:
            for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
                assert x1 == x2 or y1 == y2
                picture[min(y1, y2) : max(y1, y2), x1:] ^= x1 == x2
    return picture


def test_dense__puts_the_crop_in_its_place():
    mask = InstanceMask(2, 1, np.array([[True, False]]), image_width=5, image_height=3)

    expected = np.zeros((3, 5), np.bool_)
    expected[1, 2] = True
    np.testing.assert_array_equal(dense(mask), expected)


@settings(deadline=None)
@given(masks())
def test_encode_rle__equals_the_encoding_of_the_whole_picture(mask):
    whole = coco_mask.encode(np.asfortranarray(dense(mask).astype(np.uint8)))

    assert encode_rle(mask) == {"size": whole["size"], "counts": whole["counts"].decode()}


@decodes_rle
@settings(deadline=None)
@given(masks())
def test_encode_rle__decodes_to_the_same_mask(mask):
    np.testing.assert_array_equal(coco_mask.decode(encode_rle(mask)), dense(mask))


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(np.zeros((4, 6)), id="empty"),
        pytest.param(np.ones((4, 6)), id="full"),
        pytest.param([[1, 0, 1], [1, 0, 1], [1, 1, 1]], id="runs on into the next column"),
        pytest.param([[0, 0], [0, 1]], id="last pixel"),
        pytest.param([[1, 0], [0, 0]], id="first pixel"),
    ],
)
def test_encode_rle__equals_pycocotools_at_the_ends(picture):
    picture = np.asfortranarray(picture, np.uint8)

    assert encode_rle(mask_of(picture))["counts"] == coco_mask.encode(picture)["counts"].decode()


@decodes_rle
def test_encode_rle__of_a_photograph_sized_mask():
    random = np.random.default_rng(0)
    crop = cv2.GaussianBlur(random.normal(size=(700, 900)), (0, 0), 9) > 0
    mask = InstanceMask(1000, 300, crop, 1920, 1080)

    np.testing.assert_array_equal(coco_mask.decode(encode_rle(mask)), dense(mask))


@settings(deadline=None)
@given(masks())
def test_polygons__enclose_exactly_the_pixels_of_the_mask(mask):
    regions = polygons(mask)

    picture = filled(regions, mask.image_height, mask.image_width)
    np.testing.assert_array_equal(picture, dense(mask))


@settings(deadline=None)
@given(masks())
def test_polygons__are_as_many_as_the_connected_regions(mask):
    num_regions = cv2.connectedComponents(dense(mask).astype(np.uint8), connectivity=8)[0] - 1

    assert len(polygons(mask)) == num_regions


@settings(deadline=None)
@given(masks())
def test_polygons__have_a_corner_at_every_point(mask):
    for region in polygons(mask):
        for ring in [region["exterior"], *region["holes"]]:
            points = np.array(ring)
            edges = points - np.roll(points, 1, axis=0)
            assert (edges != 0).sum(axis=1).tolist() == [1] * len(ring)
            assert ((edges * np.roll(edges, 1, axis=0)).sum(axis=1) == 0).all()


def test_polygons__a_single_pixel_is_a_square():
    mask = InstanceMask(4, 7, np.array([[True]]), image_width=10, image_height=10)

    [region] = polygons(mask)

    assert sorted(region["exterior"]) == [[4, 7], [4, 8], [5, 7], [5, 8]]
    assert region["holes"] == []


def test_polygons__a_region_in_a_hole_is_a_region_of_its_own():
    picture = np.ones((7, 7), np.bool_)
    picture[1:6, 1:6] = False
    picture[3, 3] = True

    outer, inner = sorted(polygons(mask_of(picture)), key=lambda region: -len(region["holes"]))

    assert sorted(outer["exterior"]) == [[0, 0], [0, 7], [7, 0], [7, 7]]
    assert [sorted(hole) for hole in outer["holes"]] == [[[1, 1], [1, 6], [6, 1], [6, 6]]]
    assert sorted(inner["exterior"]) == [[3, 3], [3, 4], [4, 3], [4, 4]]


def test_polygons__pixels_that_meet_at_a_corner_are_one_region():
    [region] = polygons(mask_of([[1, 0], [0, 1]]))

    assert region["exterior"].count([1, 1]) == 2


def test_polygons__of_an_empty_mask_are_none():
    assert polygons(mask_of(np.zeros((3, 4)))) == []
    assert polygons(InstanceMask(0, 0, np.zeros((0, 0), np.bool_), 4, 3)) == []


def test_encode_png__is_the_whole_picture_in_black_and_white():
    mask = InstanceMask(2, 1, np.array([[True, False], [True, True]]), 6, 4)

    picture = cv2.imdecode(np.frombuffer(encode_png(mask), np.uint8), cv2.IMREAD_UNCHANGED)

    np.testing.assert_array_equal(picture, dense(mask) * np.uint8(255))
