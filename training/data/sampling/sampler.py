"""Which images an epoch shows, in which order, on which rank and lane: planned, not rendered.

A pure function of (seed, epoch, rank, number of workers). The k-th batch of an epoch belongs to
lane k modulo the number of workers, because that worker is going to render it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from training.config import StageConfig, TrainConfig
from training.data.annotations import AnnotatedImages
from training.data.sampling.drafts import Draft, Lane

_ORDER, _SEEDS = 0, 1

#: A new epoch goes on with the caches that the last one left. They are followed from so many cache
#: lengths back, after which almost nothing of an empty start is left: an entry stays that long with
#: a chance of exp(-8).
_WARM_UP_LENGTHS = 8


def trainable_positions(data: AnnotatedImages, config: TrainConfig) -> NDArray[np.int64]:
    """Images that are trained on: large enough, and with boxes unless those without are kept.

    Raises ValueError when none is left.
    """
    kept = [
        position
        for position in range(len(data))
        if min(data.image_size(position)) >= config.data.min_image_side
        and (config.data.keep_images_without_boxes or len(data.annotations(position)))
    ]
    if not kept:
        raise ValueError(
            f"none of the {len(data)} training images has a box to learn from and sides of at "
            f"least {config.data.min_image_side} pixels; check the annotations, or set "
            "data.keep_images_without_boxes=true or a lower data.min_image_side"
        )
    return np.array(kept, np.int64)


class Sampler:
    """Plans the batches of one rank.

    Every rank has the same number of full batches: the order is repeated from its start until they
    are full.
    """

    def __init__(
        self,
        positions: NDArray[np.int64],
        config: TrainConfig,
        *,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        assert 0 <= rank < num_ranks
        self._positions = positions
        self._config = config
        self._rank = rank
        self._num_ranks = num_ranks
        self.num_lanes = max(1, config.data.num_workers)
        total_batch = config.data.batch_size * num_ranks
        self.batches_per_epoch = -(-len(positions) // total_batch)

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[list[Draft]]:
        """The drafts of each batch from `first_batch` on; those before are planned, not given."""
        lanes = [self._warm_lane(epoch, index) for index in range(self.num_lanes)]
        positions, seeds = self._order(epoch)
        for batch in range(self.batches_per_epoch):
            lane = lanes[batch % self.num_lanes]
            planned = _plan(lane, positions[batch], seeds[batch])
            if batch >= first_batch:
                yield planned

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions and seeds [batches, batch_size] of this rank."""
        seed, shape = self._config.runtime.seed, (self.batches_per_epoch, -1)
        order = np.random.default_rng((seed, epoch, _ORDER)).permutation(self._positions)
        per_rank = self.batches_per_epoch * self._config.data.batch_size
        mine = np.resize(order, per_rank * self._num_ranks)[self._rank :: self._num_ranks]
        seeds = np.random.default_rng((seed, epoch, _SEEDS, self._rank))
        drawn = seeds.integers(2**63 - 1, size=per_rank)
        return mine.reshape(shape), drawn.reshape(shape)

    def _warm_lane(self, epoch: int, index: int) -> Lane:
        """A lane that holds what the epochs before left in it; empty where the stage begins."""
        stage_index = self._config.stage_index(epoch)
        stage = self._config.stages[stage_index]
        lane = Lane(stage_index, stage)
        wanted = _WARM_UP_LENGTHS * _cache_lengths(stage)
        replayed: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        earlier = epoch - 1
        while wanted > 0 and earlier >= 0 and self._config.stage_index(earlier) == stage_index:
            positions, seeds = (each[index :: self.num_lanes] for each in self._order(earlier))
            replayed.append((positions.ravel()[-wanted:], seeds.ravel()[-wanted:]))
            if not positions.size:
                break
            wanted -= positions.size
            earlier -= 1
        for positions, seeds in reversed(replayed):
            _plan(lane, positions, seeds)
        return lane


def _plan(lane: Lane, positions: NDArray[np.int64], seeds: NDArray[np.int64]) -> list[Draft]:
    pairs = zip(positions.tolist(), seeds.tolist(), strict=True)
    return [lane.plan(position, seed) for position, seed in pairs]


def _cache_lengths(stage: StageConfig) -> int:
    mosaic = 0 if stage.mosaic is None else stage.mosaic.cache_length
    mixup = 0 if stage.mixup is None else stage.mixup.cache_length
    return mosaic + mixup
