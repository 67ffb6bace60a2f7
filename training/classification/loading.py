"""Batches of labelled images for one rank; what is random follows from seed, epoch and rank."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.classification.samples import LabelledImages, read_picture, training_sample
from training.config import TrainConfig
from training.data.sampling.epochs import EpochLoader
from training.data.sampling.images import Pixels, UnreadableImage

#: Keys of random numbers: the order of an epoch, and what happens to one image.
_ORDER, _SAMPLE = 0, 1

#: How often an image is replaced by another because it cannot be read.
_MAX_TRIES = 20


@dataclass(frozen=True, eq=False)
class ClassificationBatch:
    """What a step trains on. `images` uint8 [n, h, w, 3] BGR, `labels` int64 [n].

    `problems` says, one line each, which images could not be read and were replaced.
    """

    images: Tensor
    labels: Tensor
    problems: tuple[str, ...] = ()

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "ClassificationBatch":
        """The same on another device."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "ClassificationBatch":
        """The same in page-locked memory; torch's loader calls it."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class Visit(NamedTuple):
    """That the image at `position` is shown in `epoch`."""

    epoch: int
    position: int


class ClassificationLoader(EpochLoader[Visit, ClassificationBatch]):
    """The batches of one rank. Raises ValueError for a set without images."""

    def __init__(
        self, data: LabelledImages, config: TrainConfig, *, rank: int = 0, num_ranks: int = 1
    ) -> None:
        if not len(data):
            raise ValueError("there is no image to train on")
        order = ShuffledOrder(len(data), config, rank=rank, num_ranks=num_ranks)
        renderer = _Renderer(data, config, rank=rank)
        super().__init__(order, renderer.batch, num_workers=config.data.num_workers)


class ShuffledOrder:
    """All images once an epoch, in an order of its own, dealt out to the ranks.

    Every rank has the same number of full batches: the order is repeated from its start until they
    are full.
    """

    def __init__(
        self, num_images: int, config: TrainConfig, *, rank: int = 0, num_ranks: int = 1
    ) -> None:
        assert 0 <= rank < num_ranks
        self._num_images = num_images
        self._seed = config.runtime.seed
        self._batch_size = config.data.batch_size
        self._rank = rank
        self._num_ranks = num_ranks
        self.batches_per_epoch = -(-num_images // (self._batch_size * num_ranks))

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[list[Visit]]:
        """What each batch from `first_batch` on shows."""
        order = np.random.default_rng((self._seed, epoch, _ORDER)).permutation(self._num_images)
        num_visits = self.batches_per_epoch * self._batch_size * self._num_ranks
        mine = np.resize(order, num_visits)[self._rank :: self._num_ranks]
        for batch in mine.reshape(self.batches_per_epoch, -1)[first_batch:]:
            yield [Visit(epoch, position) for position in batch.tolist()]


class _Renderer:
    """Makes batches of visits; a function of configuration, data, rank and visits alone."""

    def __init__(self, data: LabelledImages, config: TrainConfig, *, rank: int) -> None:
        self._data = data
        self._config = config
        self._rank = rank

    def batch(self, visits: list[Visit]) -> ClassificationBatch:
        """The finished batch.

        Raises UnreadableImage where neither an image nor any replacement can be read.
        """
        samples = [self._sample(visit) for visit in visits]
        return ClassificationBatch(
            images=torch.from_numpy(np.stack([sample.image for sample in samples])),
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            problems=tuple(line for sample in samples for line in sample.problems),
        )

    def _sample(self, visit: Visit) -> "_Sample":
        rng = np.random.default_rng(
            (self._config.runtime.seed, visit.epoch, _SAMPLE, self._rank, visit.position)
        )
        stage = self._config.stage_of(visit.epoch)
        position, problems = visit.position, []
        for _ in range(_MAX_TRIES):
            try:
                image = read_picture(self._data.image_path(position))
            except UnreadableImage as error:
                problems.append(str(error))
                position = int(rng.integers(len(self._data)))
                continue
            sample = training_sample(image, self._config.model.input_size, stage, rng)
            return _Sample(sample, self._data.label(position), tuple(problems))
        raise UnreadableImage(f"{problems[0]}; none of {_MAX_TRIES - 1} replacements can be read")


class _Sample(NamedTuple):
    image: Pixels
    label: int
    problems: tuple[str, ...]
