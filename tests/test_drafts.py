"""Planning against a plain simulation of the published caches."""

import numpy as np
import pytest

from training.config import MixUpConfig, MosaicConfig, StageConfig
from training.data.sampling.drafts import PLANNING, Draft, Lane, MixingCache


def _stage(*, random_pop: bool = True, probability: float = 1.0) -> StageConfig:
    return StageConfig(
        name="mixing",
        mosaic=MosaicConfig(cache_length=6, random_pop=random_pop, probability=probability),
        mixup=MixUpConfig(cache_length=3, random_pop=random_pop, probability=probability),
    )


def _simulated(stage: StageConfig, count: int) -> list[Draft]:
    """The published caches as lists, written down plainly."""
    assert stage.mosaic is not None
    assert stage.mixup is not None
    images, samples, drafts = [], [], []
    for number in range(count):
        rng = np.random.default_rng((number, PLANNING))
        images.append(number)
        if len(images) > 6:
            images.pop(int(rng.integers(0, len(images))) if stage.mosaic.random_pop else 0)
        tiles = ()
        if len(images) > 4 and rng.random() <= stage.mosaic.probability:
            tiles = tuple(images[i] for i in rng.integers(0, len(images), 3))
        sample = Draft(0, number, number, tiles)
        samples.append(sample)
        if len(samples) > 3:
            samples.pop(int(rng.integers(0, len(samples))) if stage.mixup.random_pop else 0)
        partners = []
        if len(samples) > 1 and rng.random() <= stage.mixup.probability:
            for i in rng.integers(0, len(samples), 15):
                if samples[i] not in partners:
                    partners.append(samples[i])
        drafts.append(sample._replace(partners=tuple(partners)))
    return drafts


@pytest.mark.parametrize("random_pop", [True, False])
@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_lane__follows_the_published_caches(random_pop: bool, probability: float) -> None:
    stage = _stage(random_pop=random_pop, probability=probability)
    lane = Lane(0, stage)
    assert [lane.plan(each, each) for each in range(60)] == _simulated(stage, 60)


def test_lane__leaves_the_first_four_images_without_a_mosaic() -> None:
    lane = Lane(0, _stage())
    assert [bool(lane.plan(each, each).tiles) for each in range(6)] == [False] * 4 + [True] * 2


def test_lane__leaves_the_first_sample_without_a_partner() -> None:
    lane = Lane(0, _stage())
    assert [bool(lane.plan(each, each).partners) for each in range(3)] == [False, True, True]


def test_lane__without_mixing_plans_single_images() -> None:
    lane = Lane(1, StageConfig(name="jitter"))
    assert lane.plan(7, 5) == Draft(stage=1, position=7, seed=5)


def test_lane__gives_partners_that_have_none_themselves() -> None:
    lane = Lane(0, _stage())
    drafts = [lane.plan(each, each) for each in range(30)]
    assert not any(partner.partners for draft in drafts for partner in draft.partners)


def test_mixing_cache__first_in_first_out_keeps_the_newest() -> None:
    cache = MixingCache[int](3, random_pop=False)
    rng = np.random.default_rng(0)
    for entry in range(10):
        cache.add(entry, rng)
    assert set(cache.draw(50, rng)) == {7, 8, 9}


def test_mixing_cache__random_pop_may_drop_the_newest() -> None:
    rng = np.random.default_rng(0)
    dropped = 0
    for _ in range(50):
        cache = MixingCache[int](2, random_pop=True)
        for entry in range(3):
            cache.add(entry, rng)
        dropped += 2 not in cache.draw(40, rng)
    assert 5 < dropped < 30
