"""Batches for one rank: planned here, rendered in worker processes that live as long as the loader.

Any epoch can be started at any batch, and gives what the whole epoch would have given there.
"""

import multiprocessing
import os
import warnings
from collections.abc import Generator, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from training.config import TrainConfig
from training.data.annotations import AnnotatedImages
from training.data.batches import batch_of
from training.data.drafts import Draft
from training.data.rendering import Renderer
from training.data.sampler import Sampler, trainable_positions
from training.data.workers import prepare_worker, signals_held_back
from training.targets import DetectionBatch

#: Batches that wait, finished, for each worker.
_PREFETCHED = 2


class WorkerLost(RuntimeError):
    """A worker process ended without being asked to."""


class TrainingLoader:
    """The batches of one rank.

    Raises ValueError when no image can be trained on. Only one epoch is under way at a time: to
    start another ends it.
    """

    def __init__(
        self, data: AnnotatedImages, config: TrainConfig, *, rank: int = 0, num_ranks: int = 1
    ) -> None:
        positions = trainable_positions(data, config)
        self._sampler = Sampler(positions, config, rank=rank, num_ranks=num_ranks)
        self._drafts = _Drafts(self._sampler)
        self._rendering = _Rendering(data, positions, config)
        self._num_workers = config.data.num_workers
        self._loader: DataLoader[DetectionBatch] | None = None
        self._underway: Generator[DetectionBatch, None, None] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches in every epoch, the same on all ranks."""
        return self._sampler.batches_per_epoch

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[DetectionBatch]:
        """The batches of an epoch from `first_batch` on.

        Raises WorkerLost, or UnreadableImage when no replacement for an image can be read.
        """
        self._end_epoch()
        self._underway = self._batches(epoch, first_batch)
        return self._underway

    def close(self) -> None:
        """End the workers; the loader may be used again, and starts new ones."""
        self._end_epoch()
        # torch ends them when its loader is dropped.
        self._loader = None

    def _end_epoch(self) -> None:
        if self._underway is not None:
            self._underway.close()
            self._underway = None

    def _batches(self, epoch: int, first_batch: int) -> Generator[DetectionBatch, None, None]:
        if not self._num_workers:
            for drafts in self._sampler.batches(epoch, first_batch):
                batch = self._rendering.__getitems__(drafts)
                yield batch.pin_memory() if torch.cuda.is_available() else batch
            return
        self._drafts.begin(epoch, first_batch)
        batches = self._start()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise _explained(error) from error
            yield batch

    def _start(self) -> Iterator[DetectionBatch]:
        if self._loader is None:
            self._loader = DataLoader(
                self._rendering,
                batch_sampler=self._drafts,  # type: ignore[arg-type]
                num_workers=self._num_workers,
                collate_fn=_as_it_is,  # type: ignore[arg-type]
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=partial(_prepare, parent=os.getpid()),
                multiprocessing_context=multiprocessing.get_context("fork"),
                # torch would draw a seed for its workers from the global generator.
                generator=torch.Generator(),
                prefetch_factor=_PREFETCHED,
                persistent_workers=True,
            )
        with signals_held_back(), warnings.catch_warnings():
            # Python warns of forks beside threads; `training.data.workers` says why these are safe.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            return iter(self._loader)


class _Drafts:
    """What torch's loader takes for a sampler of batches: the drafts of the epoch set last."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._epoch, self._first_batch = 0, 0

    def begin(self, epoch: int, first_batch: int) -> None:
        """Set what the next iteration gives."""
        self._epoch, self._first_batch = epoch, first_batch

    def __iter__(self) -> Iterator[list[Draft]]:
        return self._sampler.batches(self._epoch, self._first_batch)

    def __len__(self) -> int:
        return self._sampler.batches_per_epoch - self._first_batch


class _Rendering(Dataset[DetectionBatch]):
    """What torch's loader takes for a data set, addressed by drafts; lives in the workers."""

    def __init__(
        self, data: AnnotatedImages, positions: NDArray[np.int64], config: TrainConfig
    ) -> None:
        self._renderer = Renderer(data, positions, config)

    def __getitem__(self, draft: Draft) -> DetectionBatch:
        return batch_of([self._renderer.render(draft)])

    def __getitems__(self, drafts: list[Draft]) -> DetectionBatch:
        """The finished batch of these drafts."""
        return batch_of([self._renderer.render(draft) for draft in drafts])


def _as_it_is(batch: DetectionBatch) -> DetectionBatch:
    return batch


def _prepare(_worker: int, *, parent: int) -> None:
    prepare_worker(parent)


def _explained(error: RuntimeError) -> RuntimeError:
    """torch's report of a lost worker in terms of what to do; anything else as it is."""
    if "DataLoader worker" not in str(error) or "exited" not in str(error):
        return error
    return WorkerLost(
        "a data worker was killed, most likely because memory ran out: lower data.num_workers, "
        "data.cache_mib or data.batch_size, or give the container more shared memory"
    )
