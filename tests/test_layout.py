"""The fused window against the published two steps, done plainly here."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from training.config import MosaicConfig, StageConfig
from training.data.annotations import Annotations
from training.data.sampling.painting import paint
from training.data.sampling.placements import Layout, draw_layout, draw_rescaled
from training.data.sampling.placing import place_annotations

INPUT = (128, 160)
SIZES = ((96, 128), (120, 90), (72, 72), (150, 200))
MOSAIC = StageConfig(name="mixing", mosaic=MosaicConfig(), scale_range=(0.5, 2.0))
SINGLE = StageConfig(name="jitter", scale_range=(0.2, 2.0))


def _smooth(size: tuple[int, int], seed: int) -> np.ndarray:
    """An image without sharp edges, so that half a pixel makes little difference."""
    coarse = np.random.default_rng(seed).integers(40, 216, (4, 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def _in_two_steps(layout: Layout, images: list[np.ndarray], factor: float) -> np.ndarray:
    """Tiles on a canvas, the canvas resized, then the window cut out of it."""
    canvas = np.full((2 * INPUT[0], 2 * INPUT[1], 3), 114, np.uint8)
    first = layout.placements[0]
    assert first is not None
    # Where the images meet, on the canvas before it is resized.
    meet = [round((first.region[2 + axis] - layout.canvas[axis]) / factor) for axis in range(2)]
    for index, image in enumerate(images):
        scale = min(INPUT[0] / image.shape[0], INPUT[1] / image.shape[1])
        tile = cv2.resize(image, None, fx=scale, fy=scale)
        x = meet[0] if index % 2 else meet[0] - tile.shape[1]
        y = meet[1] if index >= 2 else meet[1] - tile.shape[0]
        left, top = max(x, 0), max(y, 0)
        right = min(x + tile.shape[1], canvas.shape[1])
        bottom = min(y + tile.shape[0], canvas.shape[0])
        canvas[top:bottom, left:right] = tile[top - y : bottom - y, left - x : right - x]
    resized = cv2.resize(canvas, None, fx=factor, fy=factor)
    left, top = -layout.canvas.left, -layout.canvas.top
    return resized[top : top + layout.height, left : left + layout.width]


def test_layout__a_mosaic_equals_canvas_resize_and_crop() -> None:
    images = [_smooth(size, index) for index, size in enumerate(SIZES)]
    compared = 0
    for seed in range(60):
        layout = draw_layout(MOSAIC, SIZES, INPUT, 0.0, np.random.default_rng(seed))
        if layout.placements[0] is None or layout.across:
            continue
        factor = layout.canvas.width / (2 * INPUT[1])
        region = layout.placements[0].region
        if region.right >= layout.width or region.bottom >= layout.height:
            continue  # the images meet outside of the window
        expected = _in_two_steps(layout, images, factor)
        found = paint(layout, images, INPUT, None)[: layout.height, : layout.width]
        difference = cv2.absdiff(found, expected).max(2)
        # All but the seams, where the published canvas is blurred across them.
        assert np.mean(difference <= 6) > 0.93
        assert difference.mean() < 3
        compared += 1
    assert compared > 5


@pytest.mark.parametrize("stage", [SINGLE, replace(SINGLE, scale_range=None)])
def test_layout__a_single_image_equals_resize_and_crop(stage: StageConfig) -> None:
    image = _smooth((96, 128), 0)
    for seed in range(30):
        layout = draw_layout(stage, ((96, 128),), INPUT, 0.0, np.random.default_rng(seed))
        resized = cv2.resize(image, (layout.canvas.width, layout.canvas.height))
        left, top = -layout.canvas.left, -layout.canvas.top
        expected = resized[top : top + layout.height, left : left + layout.width]
        if layout.across:
            expected = expected[:, ::-1]
        found = paint(layout, [image], INPUT, None)
        assert cv2.absdiff(found[: layout.height, : layout.width], expected.copy()).max() <= 8
        assert (found[layout.height :] == 114).all()
        assert (found[:, layout.width :] == 114).all()


def test_layout__images_of_a_mosaic_meet_without_a_gap() -> None:
    """White images leave no grey line between them."""
    sizes = ((97, 131),) * 4
    images = [np.full((*size, 3), 255, np.uint8) for size in sizes]
    stage = replace(MOSAIC, mosaic=MosaicConfig(centre_range=(0.95, 1.05)), scale_range=(1.1, 2.0))
    for seed in range(200):
        layout = draw_layout(stage, sizes, INPUT, 0.0, np.random.default_rng(seed))
        canvas = layout.canvas
        middle = (canvas.left + canvas.right) // 2, (canvas.top + canvas.bottom) // 2
        x, y = middle[0], middle[1]
        if layout.across:
            x = layout.width - x
        window = paint(layout, images, INPUT, None)
        near = window[max(0, y - 30) : max(0, y + 30), max(0, x - 30) : max(0, x + 30)]
        assert (near == 255).all()


def test_layout__nothing_of_an_image_beyond_its_region() -> None:
    """Each image stays out of the others' parts, and its boxes end where it does."""
    for seed in range(100):
        layout = draw_layout(MOSAIC, SIZES, INPUT, 0.0, np.random.default_rng(seed))
        covered = np.zeros((layout.height, layout.width), int)
        for size, placement in zip(SIZES, layout.placements, strict=True):
            if placement is None:
                continue
            left, top, right, bottom = placement.region
            covered[top:bottom, left:right] += 1
            whole = Annotations(
                np.array([[0, 0, size[1], size[0]]], np.float32), np.zeros(1, np.int64)
            )
            (box,) = place_annotations(whole, placement, layout).boxes
            expected = placement.region.mirrored(
                layout.width, layout.height, across=layout.across, down=layout.down
            )
            assert np.abs(box - expected).max() <= 1
        assert covered.max() == 1


def test_layout__reaches_every_part_of_the_canvas() -> None:
    tops = {
        -draw_layout(SINGLE, ((128, 160),), INPUT, 0.0, np.random.default_rng(seed)).canvas.top
        for seed in range(300)
    }
    assert min(tops) == 0
    assert max(tops) > 100


def test_layout__a_rescaled_sample_keeps_its_size_of_input() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert (draw_rescaled(INPUT, 1.7, rng, across=False).window) == (0, 0, 160, 128)
        assert (draw_rescaled(INPUT, 0.5, rng, across=False).window) == (0, 0, 80, 64)
