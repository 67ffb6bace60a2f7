"""Samples from drafts: repeatable, and glued to what is drawn in the images."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.drawn_scenes import DrawnScenes, coloured, scenes_config
from training.config import FlipConfig, MosaicConfig, RotationConfig, StageConfig, TrainConfig
from training.data.sampling.drafts import Draft
from training.data.sampling.images import UnreadableImage
from training.data.sampling.rendering import Renderer
from training.data.sampling.sampler import Sampler
from training.data.sampling.samples import Sample

#: Without shifted colours and blending, so that a shape can be told from its surroundings.
CLEAR = StageConfig(name="clear", colour=False, scale_range=(0.5, 1.5))
EVERY_FLIP = FlipConfig(horizontal=0.25, vertical=0.25, diagonal=0.25)
STAGES = {
    "single": CLEAR,
    "flips": replace(CLEAR, flip=EVERY_FLIP),
    "fitted": replace(CLEAR, scale_range=None, flip=EVERY_FLIP),
    "mosaic": replace(CLEAR, mosaic=MosaicConfig(cache_length=8), flip=EVERY_FLIP),
}
TURNED = {
    "turned": replace(
        CLEAR, scale_range=None, flip=EVERY_FLIP, rotation=RotationConfig(probability=1.0)
    ),
    "turned mosaic": replace(
        STAGES["mosaic"], rotation=RotationConfig(probability=1.0), scale_range=(0.7, 1.5)
    ),
}


def _renderer(scenes: DrawnScenes, config: TrainConfig) -> Renderer:
    return Renderer(scenes, np.arange(len(scenes)), config)


def _drafts(scenes: DrawnScenes, config: TrainConfig, epochs: int = 3) -> Iterator[Draft]:
    sampler = Sampler(np.arange(len(scenes)), config)
    for epoch in range(epochs):
        for batch in sampler.batches(epoch):
            yield from batch


def _rendered(folder: Path, task: str, stage: StageConfig, epochs: int = 3) -> list[Sample]:
    scenes = DrawnScenes(folder, task)
    config = scenes_config(task, stage=stage)
    renderer = _renderer(scenes, config)
    return [renderer.render(draft) for draft in _drafts(scenes, config, epochs)]


def _same(one: Sample, other: Sample) -> bool:
    bitmaps = zip(one.instances.bitmaps or (), other.instances.bitmaps or (), strict=True)
    return (
        np.array_equal(one.image, other.image)
        and np.array_equal(one.instances.boxes, other.instances.boxes)
        and np.array_equal(one.instances.labels, other.instances.labels)
        and all(np.array_equal(a.pixels, b.pixels) and a[1:] == b[1:] for a, b in bitmaps)
    )


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_renderer__what_it_remembers_changes_nothing(tmp_path: Path, task: str) -> None:
    scenes = DrawnScenes(tmp_path, task)
    config = scenes_config(task)
    warm = _renderer(scenes, config)
    for draft in _drafts(scenes, config, 2):
        assert _same(warm.render(draft), _renderer(scenes, config).render(draft))


def test_renderer__gives_the_same_twice(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "instance")
    config = scenes_config("instance")
    renderer = _renderer(scenes, config)
    for draft in _drafts(scenes, config, 2):
        assert _same(renderer.render(draft), renderer.render(draft))


def test_renderer__another_seed_gives_another_sample(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect")
    renderer = _renderer(scenes, scenes_config("detect", stage=CLEAR))
    assert not _same(renderer.render(Draft(0, 3, 1)), renderer.render(Draft(0, 3, 2)))


def test_renderer__keeps_within_its_budget(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 40)
    config = scenes_config("detect", cache_mib=1)
    renderer = _renderer(scenes, config)
    held = []
    for draft in _drafts(scenes, config, 2):
        renderer.render(draft)
        held.append(renderer.num_bytes)
    assert 0.8 * 2**20 < max(held) <= 2**20


def test_renderer__remembers_nothing_without_mixing(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect")
    renderer = _renderer(scenes, scenes_config("detect", stage=CLEAR))
    renderer.render(Draft(0, 0, 0))
    assert renderer.num_bytes == 0


def test_renderer__leaves_global_random_states_alone(tmp_path: Path) -> None:
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
    scenes = DrawnScenes(tmp_path, "detect")
    config = scenes_config("detect")
    renderer = _renderer(scenes, config)
    for draft in _drafts(scenes, config, 1):
        renderer.render(draft)
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
    assert before == after


def _box_mask(box: np.ndarray, shape: tuple[int, ...], *, grown: float) -> np.ndarray:
    """The pixels of a box [4 or 5] that was made larger by so much on every side."""
    if len(box) == 4:
        centre, sides, angle = (box[:2] + box[2:]) / 2, box[2:] - box[:2], 0.0
    else:
        centre, sides, angle = box[:2], box[2:4], box[4]
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    across = -(x - centre[0]) * np.sin(angle) + (y - centre[1]) * np.cos(angle)
    return (abs(along) < sides[0] / 2 + grown) & (abs(across) < sides[1] / 2 + grown)


@pytest.mark.parametrize("stage", STAGES)
def test_renderer__boxes_hold_their_shapes(tmp_path: Path, stage: str) -> None:
    """All inside a box is its shape, all of the shapes is inside boxes, within 1.5 pixels."""
    num_boxes = 0
    for sample in _rendered(tmp_path, "detect", STAGES[stage]):
        uncovered = {label: coloured(sample.image, label) for label in range(5)}
        for box, label in zip(sample.instances.boxes, sample.instances.labels, strict=True):
            inner = _box_mask(box, sample.image.shape, grown=-1.5)
            assert not inner.any() or coloured(sample.image, label)[inner].mean() > 0.99
            uncovered[label] &= ~_box_mask(box, sample.image.shape, grown=1.5)
            num_boxes += 1
        assert not any(each.any() for each in uncovered.values())
    assert num_boxes > 30


@pytest.mark.parametrize("stage", STAGES | TURNED)
def test_renderer__rotated_boxes_hold_their_shapes(tmp_path: Path, stage: str) -> None:
    """A box is its shape within 1.5 pixels, unless the shape is cut off somewhere."""
    num_whole, num_boxes = 0, 0
    for sample in _rendered(tmp_path, "rotated", (STAGES | TURNED)[stage], 6):
        for box, label in zip(sample.instances.boxes, sample.instances.labels, strict=True):
            shape = coloured(sample.image, label)
            inner = _box_mask(box, shape.shape, grown=-1.5)
            rim = _box_mask(box, shape.shape, grown=3) & ~_box_mask(box, shape.shape, grown=1.5)
            num_whole += bool(shape[inner].mean() > 0.99 and not shape[rim].any())
            num_boxes += 1
            middle = _box_mask(box, shape.shape, grown=-0.7 * min(box[2:4]) / 2)
            assert shape[middle].mean() > 0.4
    assert num_boxes > 60
    # The rest are cut by a seam or an edge.
    assert num_whole > (0.6 if "mosaic" in stage else 0.85) * num_boxes


@pytest.mark.parametrize("stage", STAGES)
def test_renderer__masks_lie_on_their_shapes(tmp_path: Path, stage: str) -> None:
    kernel = np.ones((5, 5), np.uint8)
    num_masks = 0
    for sample in _rendered(tmp_path, "instance", STAGES[stage]):
        uncovered = {label: coloured(sample.image, label) for label in range(5)}
        bitmaps = sample.instances.bitmaps
        assert bitmaps is not None
        for bitmap, label in zip(bitmaps, sample.instances.labels, strict=True):
            mask = np.zeros(sample.image.shape[:2], np.uint8)
            height, width = bitmap.pixels.shape
            mask[bitmap.y : bitmap.y + height, bitmap.x : bitmap.x + width] = bitmap.pixels
            shape = coloured(sample.image, label)
            # Towards the window's edges nothing is taken away, whatever lies beyond.
            eroded = cv2.erode(mask, kernel).astype(bool)
            assert not eroded.any() or shape[eroded].mean() > 0.99
            uncovered[label] &= ~cv2.dilate(mask, kernel).astype(bool)
            num_masks += 1
        # Slivers that are dropped leave a pixel here and there.
        assert sum(int(each.sum()) for each in uncovered.values()) < 12
    assert num_masks > 30


def test_renderer__masks_give_the_boxes(tmp_path: Path) -> None:
    for sample in _rendered(tmp_path, "instance", STAGES["mosaic"]):
        bitmaps = sample.instances.bitmaps
        assert bitmaps is not None
        for bitmap, box in zip(bitmaps, sample.instances.boxes, strict=True):
            left, top, width, height = cv2.boundingRect(bitmap.pixels)
            tight = np.array([left, top, left + width, top + height], np.float32)
            tight += [bitmap.x, bitmap.y] * 2
            assert np.abs(tight - box).max() <= 1.01


def test_renderer__images_with_square_classes_turn_by_right_angles(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "rotated")
    renderer = _renderer(scenes, scenes_config("rotated", stage=TURNED["turned"]))
    for position in range(len(scenes)):
        annotations = scenes.annotations(position)
        if 4 not in annotations.labels:
            continue
        for seed in range(5):
            boxes, labels, _ = renderer.render(Draft(0, position, seed)).instances
            for angle, label in zip(boxes[:, 4], labels, strict=True):
                given = annotations.boxes[annotations.labels == label][0, 4]
                turns = [(angle - given) / (np.pi / 2), (angle + given) / (np.pi / 2)]
                assert min(abs(turn - round(turn)) for turn in turns) < 1e-4


def test_renderer__draws_again_when_no_box_is_left(tmp_path: Path) -> None:
    samples = _rendered(tmp_path, "detect", replace(CLEAR, scale_range=(2.0, 4.0)), 6)
    assert all(len(sample.instances.labels) for sample in samples)


def test_renderer__keeps_windows_of_background_for_masks(tmp_path: Path) -> None:
    samples = _rendered(tmp_path, "instance", replace(CLEAR, scale_range=(2.0, 4.0)), 6)
    assert not all(len(sample.instances.labels) for sample in samples)


def test_renderer__drops_boxes_that_are_not_larger_than_the_least_side(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect")
    config = scenes_config("detect", stage=STAGES["mosaic"], min_box_side=9.0)
    renderer = _renderer(scenes, config)
    smallest = []
    for draft in _drafts(scenes, config):
        boxes = renderer.render(draft).instances.boxes
        smallest += (boxes[:, 2:] - boxes[:, :2]).min(1).tolist()
    assert 9.0 < min(smallest) < 12.0


def test_renderer__an_image_without_boxes_gives_a_sample_without(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 2, empty=(0, 1))
    sample = _renderer(scenes, scenes_config("detect", stage=CLEAR)).render(Draft(0, 0, 0))
    assert sample.instances.boxes.shape == (0, 4)


def test_renderer__replaces_an_unreadable_image_and_says_so(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect")
    scenes.image_path(3).write_bytes(b"no image")
    config = scenes_config("detect", stage=CLEAR)
    sample = _renderer(scenes, config).render(Draft(0, 3, 0))
    assert len(sample.instances.labels)
    (problem,) = sample.problems
    assert problem.startswith(f"{scenes.image_path(3)}: no image that can be decoded")


def test_renderer__reports_an_unreadable_partner_elsewhere(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect")
    scenes.image_path(3).unlink()
    config = scenes_config("detect", stage=STAGES["mosaic"])
    sample = _renderer(scenes, config).render(Draft(0, 1, 0, tiles=(2, 3, 3)))
    assert not sample.problems


def test_renderer__gives_up_when_nothing_can_be_read(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 3)
    for position in range(3):
        scenes.image_path(position).unlink()
    renderer = _renderer(scenes, scenes_config("detect", stage=CLEAR))
    with pytest.raises(UnreadableImage, match="No such file"):
        renderer.render(Draft(0, 0, 0))
