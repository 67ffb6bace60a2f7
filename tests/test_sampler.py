from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.drawn_scenes import DrawnScenes, scenes_config
from training.config import MixUpConfig, MosaicConfig, StageConfig, TrainConfig
from training.data.sampling.drafts import Draft, Lane
from training.data.sampling.sampler import Sampler, trainable_positions


def _sampler(config: TrainConfig, num_images: int, rank: int = 0, num_ranks: int = 1) -> Sampler:
    return Sampler(np.arange(num_images), config, rank=rank, num_ranks=num_ranks)


def _flat(batches: Iterable[list[Draft]]) -> list[int]:
    return [draft.position for batch in batches for draft in batch]


def test_sampler__one_rank_shows_every_image_once() -> None:
    sampler = _sampler(scenes_config("detect"), 40)
    assert sorted(_flat(list(sampler.batches(0)))) == list(range(40))


def test_sampler__ranks_share_the_images_between_them() -> None:
    shown = [
        _flat(list(_sampler(scenes_config("detect"), 48, rank, 3).batches(2))) for rank in range(3)
    ]
    assert sorted(chain(*shown)) == list(range(48))


@pytest.mark.parametrize("num_images", [1, 5, 13, 25])
def test_sampler__fills_every_batch_by_starting_over(num_images: int) -> None:
    ranks = [_sampler(scenes_config("detect"), num_images, rank, 3) for rank in range(3)]
    batches = [list(rank.batches(0)) for rank in ranks]
    count = -(-num_images // 12)
    assert [len(each) for each in batches] == [count] * 3
    assert all(len(batch) == 4 for each in batches for batch in each)
    assert set(_flat(chain(*batches))) == set(range(num_images))


def test_sampler__another_epoch_has_another_order() -> None:
    sampler = _sampler(scenes_config("detect"), 40)
    assert _flat(list(sampler.batches(0))) != _flat(list(sampler.batches(1)))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_sampler__from_the_middle_plans_the_rest_of_the_epoch(num_workers: int) -> None:
    sampler = _sampler(scenes_config("detect", num_workers=num_workers), 60)
    whole = list(sampler.batches(3))
    for first in (0, 1, 4, 14, 15):
        assert list(sampler.batches(3, first)) == whole[first:]


def test_sampler__no_two_drafts_share_a_seed() -> None:
    seeds = [
        draft.seed
        for epoch in range(3)
        for rank in range(2)
        for batch in _sampler(scenes_config("detect"), 40, rank, 2).batches(epoch)
        for draft in batch
    ]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("random_pop", [False, True])
def test_sampler__caches_go_on_across_epochs(random_pop: bool) -> None:
    """What is replayed before an epoch equals lanes that were never interrupted."""
    stage = StageConfig(
        name="mixing",
        mosaic=MosaicConfig(cache_length=8, random_pop=random_pop),
        mixup=MixUpConfig(cache_length=4, random_pop=random_pop),
    )
    sampler = _sampler(scenes_config("detect", stage=stage, num_workers=2), 120)
    lanes = [Lane(0, stage), Lane(0, stage)]
    for epoch in range(6):
        planned = list(sampler.batches(epoch))
        uninterrupted = [
            [lanes[index % 2].plan(draft.position, draft.seed) for draft in batch]
            for index, batch in enumerate(planned)
        ]
        assert planned == uninterrupted


def test_sampler__a_stage_begins_with_empty_caches() -> None:
    base = scenes_config("rotated")
    mixing = base.stages[0]
    config = replace(base, stages=(mixing, replace(mixing, name="again")))
    switch = config.schedule.epochs - config.schedule.last_stage_epochs
    first = next(_sampler(config, 40).batches(switch))
    assert [bool(draft.tiles) for draft in first] == [False] * 4
    assert {draft.stage for draft in first} == {1}


def test_sampler__a_later_epoch_of_a_stage_begins_with_full_caches() -> None:
    first = next(_sampler(scenes_config("detect"), 40).batches(1))
    assert all(draft.tiles for draft in first)


def test_sampler__draws_partners_from_its_own_lane_alone() -> None:
    """A worker never needs what only another one has decoded."""
    sampler = _sampler(scenes_config("detect", num_workers=3), 240)
    batches = list(sampler.batches(0))
    for lane in range(3):
        own = batches[lane::3]
        positions = {draft.position for batch in own for draft in batch}
        used = {tile for batch in own for draft in batch for tile in draft.tiles}
        partners = {each.position for batch in own for draft in batch for each in draft.partners}
        assert used | partners <= positions


def test_trainable_positions__drops_images_without_boxes_and_small_ones(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 6, empty=(1,))
    config = scenes_config("detect", min_image_side=80)
    assert trainable_positions(scenes, config).tolist() == [0, 3, 4, 5]


def test_trainable_positions__keeps_images_without_boxes_when_told(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 3, empty=(1,))
    config = scenes_config("detect", keep_images_without_boxes=True)
    assert trainable_positions(scenes, config).tolist() == [0, 1, 2]


def test_trainable_positions__refuses_a_set_without_any(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 2, empty=(0, 1))
    with pytest.raises(ValueError, match="none of the 2 training images has a box"):
        trainable_positions(scenes, scenes_config("detect"))
