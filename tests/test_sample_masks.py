"""Bitmaps of outlines against pycocotools' rasterisation of the whole window."""

import numpy as np
import pytest
import torch

from training.data import run_lengths
from training.data.annotations import Outline
from training.data.sampling.geometry import Window, scaling
from training.data.sampling.masks import Bitmap, packed_masks, place_outlines
from training.targets import unpack_masks

INPUT = (96, 136)
WINDOW = Window(0, 0, 136, 96)
IDENTITY = scaling(1.0, 0.0, 0.0)


def _blob(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
    radii = radius * rng.uniform(0.4, 1, 14)
    points = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1) + centre
    return points.astype(np.float32)


def _whole(bitmap: Bitmap, size: tuple[int, int] = INPUT) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    height, width = bitmap.pixels.shape
    mask[bitmap.y : bitmap.y + height, bitmap.x : bitmap.x + width] = bitmap.pixels
    return mask


def _placed_one(outline: Outline, region: Window = WINDOW) -> tuple[Bitmap, np.ndarray]:
    (placed,) = place_outlines([outline], IDENTITY, region)
    assert placed is not None
    return placed.bitmap, np.array(placed.box)


def test_place_outlines__equals_a_rasterisation_of_the_window() -> None:
    rng = np.random.default_rng(0)
    num_different = 0
    for _ in range(60):
        blob = _blob(rng, (rng.uniform(25, 110), rng.uniform(25, 70)), rng.uniform(3, 25))
        bitmap, _ = _placed_one(Outline(polygons=(blob,)))
        expected = run_lengths.decoded(run_lengths.of_polygons([blob], *INPUT), *INPUT)
        num_different += int((_whole(bitmap) != expected).sum())
    # Whether a half is rounded up depends on the last bit, and so on where the crop begins.
    assert num_different <= 2


def test_place_outlines__joins_the_parts_of_an_instance() -> None:
    rng = np.random.default_rng(1)
    parts = (_blob(rng, (30, 30), 20), _blob(rng, (100, 60), 25))
    bitmap, box = _placed_one(Outline(polygons=parts))
    expected = run_lengths.decoded(run_lengths.of_polygons(parts, *INPUT), *INPUT)
    np.testing.assert_array_equal(_whole(bitmap), expected)
    points = np.concatenate(parts)
    np.testing.assert_allclose(box, [*points.min(0), *points.max(0)], atol=1e-5)


def test_place_outlines__cuts_at_the_window() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        blob = _blob(rng, (rng.uniform(-5, 140), rng.uniform(-5, 100)), 30)
        (placed,) = place_outlines([Outline(polygons=(blob,))], IDENTITY, WINDOW)
        expected = run_lengths.decoded(run_lengths.of_polygons([blob], *INPUT), *INPUT)
        found = np.zeros(INPUT, np.uint8) if placed is None else _whole(placed.bitmap)
        np.testing.assert_array_equal(found, expected)


def test_place_outlines__cuts_at_the_region_of_its_image() -> None:
    square = np.array([[10, 10], [90, 10], [90, 80], [10, 80]], np.float32)
    bitmap, box = _placed_one(Outline(polygons=(square,)), Window(40, 0, 136, 50))
    np.testing.assert_array_equal(box, [40, 10, 90, 50])
    mask = _whole(bitmap)
    assert mask[10:50, 40:90].all()
    assert mask.sum() == 40 * 50


def test_place_outlines__a_box_ends_where_what_is_seen_does() -> None:
    """The corner beyond the window does not count; the box does not follow the cut edges."""
    hook = np.array([[-40, -40], [30, 60], [30, 70], [-40, 70], [-40, 60], [20, 60]], np.float32)
    _, box = _placed_one(Outline(polygons=(hook,)))
    assert box[0] == 0
    assert 0 <= box[1] < 20
    assert box[2:].tolist() == [30, 70]


def test_place_outlines__nothing_is_left_of_one_outside() -> None:
    outside = np.array([[200, 10], [220, 10], [220, 30]], np.float32)
    sliver = np.array([[10, 10], [10.1, 10], [10.1, 10.1]], np.float32)
    inside = np.array([[10, 10], [40, 10], [40, 30]], np.float32)
    outlines = [Outline(polygons=(each,)) for each in (outside, sliver, inside)]
    kept = [each is not None for each in place_outlines(outlines, IDENTITY, WINDOW)]
    assert kept == [False, False, True]


def test_place_outlines__bitmaps_follow_the_map() -> None:
    rng = np.random.default_rng(3)
    blob = _blob(rng, (30, 25), 18)
    size = (60, 70)
    bitmap = run_lengths.decoded(run_lengths.of_polygons([blob], *size), *size)
    crop = np.ascontiguousarray(bitmap[5:50, 8:60])
    affine = scaling(1.7, 4.0, 6.0)
    placed = place_outlines(
        [Outline(bitmap=crop, origin=(8, 5)), Outline(polygons=(blob,))], affine, WINDOW
    )
    assert placed[0] is not None
    assert placed[1] is not None
    masks = [_whole(each.bitmap) for each in placed if each is not None]
    both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
    assert both / either > 0.93
    np.testing.assert_allclose(placed[0].box, placed[1].box, atol=2.0)


def test_place_outlines__centres_are_means_of_pixel_indices() -> None:
    rng = np.random.default_rng(4)
    bitmap, _ = _placed_one(Outline(polygons=(_blob(rng, (70, 40), 30),)))
    rows, columns = np.nonzero(_whole(bitmap))
    np.testing.assert_allclose(bitmap.centre, (columns.mean(), rows.mean()), rtol=1e-12)


@pytest.mark.parametrize("input_size", [(96, 136), (64, 64), (32, 160)])
def test_packed_masks__equal_what_is_sampled_of_the_whole(input_size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    height, width = input_size
    window = Window(0, 0, width, height)
    bitmaps = []
    for _ in range(80):
        centre = (rng.uniform(0, width), rng.uniform(0, height))
        outline = Outline(polygons=(_blob(rng, centre, rng.uniform(1, 40)),))
        (placed,) = place_outlines([outline], IDENTITY, window)
        bitmaps += [] if placed is None else [placed.bitmap]
    packed = torch.from_numpy(packed_masks(bitmaps, input_size))
    whole = np.stack([_whole(each, input_size)[2::4, 2::4] for each in bitmaps])
    np.testing.assert_array_equal(unpack_masks(packed, width // 4).numpy(), whole.astype(bool))
    assert whole.any()


def test_packed_masks__of_no_instance() -> None:
    assert packed_masks((), INPUT).shape == (0, 24, 5)
