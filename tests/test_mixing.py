from pathlib import Path

import numpy as np
import pytest

from tests.drawn_scenes import DrawnScenes, scenes_config
from training.config import MixUpConfig
from training.data.sampling.drafts import Draft
from training.data.sampling.mixing import mixed
from training.data.sampling.rendering import Renderer
from training.data.sampling.samples import Sample

TASKS = ("detect", "instance", "rotated")


def _pair(folder: Path, task: str) -> tuple[Sample, Sample]:
    scenes = DrawnScenes(folder, task)
    config = scenes_config(task)
    renderer = Renderer(scenes, np.arange(len(scenes)), config)
    return renderer.render(Draft(0, 2, 0)), renderer.render(Draft(0, 5, 1))


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("flipped", [0.0, 1.0])
def test_mixed__blends_half_and_half(tmp_path: Path, task: str, flipped: float) -> None:
    one, other = _pair(tmp_path, task)
    sample = mixed(one, other, MixUpConfig(flip_probability=flipped), _rng())
    second = other.image[:, ::-1] if flipped else other.image
    expected = (one.image.astype(np.float64) + second) / 2
    assert np.abs(sample.image - expected).max() <= 0.5


@pytest.mark.parametrize("task", TASKS)
def test_mixed__holds_the_instances_of_both(tmp_path: Path, task: str) -> None:
    one, other = _pair(tmp_path, task)
    sample = mixed(one, other, MixUpConfig(flip_probability=0.0), _rng())
    expected = np.concatenate([one.instances.boxes, other.instances.boxes])
    np.testing.assert_array_equal(sample.instances.boxes, expected)
    labels = np.concatenate([one.instances.labels, other.instances.labels])
    np.testing.assert_array_equal(sample.instances.labels, labels)


def test_mixed__flips_upright_boxes(tmp_path: Path) -> None:
    one, other = _pair(tmp_path, "detect")
    sample = mixed(one, other, MixUpConfig(flip_probability=1.0), _rng())
    x1, y1, x2, y2 = other.instances.boxes.T
    flipped = np.stack([160 - x2, y1, 160 - x1, y2], 1)
    own = len(one.instances.labels)
    np.testing.assert_allclose(sample.instances.boxes[own:], flipped, atol=1e-4)


def test_mixed__flips_rotated_boxes(tmp_path: Path) -> None:
    one, other = _pair(tmp_path, "rotated")
    sample = mixed(one, other, MixUpConfig(flip_probability=1.0), _rng())
    x, y, width, height, angle = other.instances.boxes.T
    flipped = np.stack([160 - x, y, width, height, -angle], 1)
    own = len(one.instances.labels)
    np.testing.assert_allclose(sample.instances.boxes[own:], flipped, atol=1e-4)


def test_mixed__flips_masks_and_their_centres(tmp_path: Path) -> None:
    one, other = _pair(tmp_path, "instance")
    sample = mixed(one, other, MixUpConfig(flip_probability=1.0), _rng())
    bitmap, given = (each.instances.bitmaps for each in (sample, other))
    assert bitmap is not None
    assert given is not None
    found, original = bitmap[-1], given[-1]
    np.testing.assert_array_equal(found.pixels, original.pixels[:, ::-1])
    assert found.x == 160 - original.x - original.pixels.shape[1]
    columns = np.nonzero(found.pixels)[1]
    assert found.centre[0] == pytest.approx(columns.mean() + found.x)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scale", [0.5, 1.6])
def test_mixed__a_rescaled_partner_keeps_to_the_input(
    tmp_path: Path, task: str, scale: float
) -> None:
    one, other = _pair(tmp_path, task)
    config = MixUpConfig(flip_probability=0.0, scale_range=(scale, scale))
    sample = mixed(one, other, config, _rng())
    own = len(one.instances.labels)
    boxes = sample.instances.boxes[own:]
    assert sample.image.shape == one.image.shape
    if scale < 1:
        tolerance = 1.5 if task == "instance" else 1e-3
        sizes = np.s_[:, 2:4] if task == "rotated" else np.s_[:, :4]
        expected = other.instances.boxes[sizes] * scale
        np.testing.assert_allclose(boxes[sizes], expected, atol=tolerance)
    elif task != "rotated":
        assert boxes.min() >= 0
        assert (boxes.max(0) <= [160, 128, 160, 128]).all()


def test_mixed__changes_neither_sample(tmp_path: Path) -> None:
    one, other = _pair(tmp_path, "instance")
    before = one.image.copy(), other.image.copy(), other.instances.boxes.copy()
    mixed(one, other, MixUpConfig(flip_probability=1.0), _rng())
    for kept, now in zip(before, (one.image, other.image, other.instances.boxes), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_renderer__takes_the_first_partner_that_has_a_box(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", empty=(4,))
    renderer = Renderer(scenes, np.arange(12), scenes_config("detect"))
    empty, full, later = (Draft(0, each, 9) for each in (4, 5, 2))
    sample = renderer.render(Draft(0, 2, 1, partners=(empty, full, later)))
    only_full = renderer.render(Draft(0, 2, 1, partners=(full,)))
    np.testing.assert_array_equal(sample.image, only_full.image)


def test_renderer__without_a_partner_that_has_a_box_nothing_is_mixed(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", empty=(4,))
    renderer = Renderer(scenes, np.arange(12), scenes_config("detect"))
    sample = renderer.render(Draft(0, 2, 1, partners=(Draft(0, 4, 9),)))
    np.testing.assert_array_equal(sample.image, renderer.render(Draft(0, 2, 1)).image)
