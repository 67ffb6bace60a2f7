"""Epochs of batches: planned here, rendered in worker processes that live as long as the loader.

Any epoch can be started at any batch, and gives what the whole epoch would have given there.
"""

import atexit
import multiprocessing
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from training.data.sampling.images import UnreadableImage
from training.data.sampling.workers import prepare_worker, signals_in_order

#: Batches that wait, finished, for each worker.
_PREFETCHED = 2

Plan = TypeVar("Plan")
Batch = TypeVar("Batch", bound="Pinnable")


class WorkerLost(RuntimeError):
    """A worker process ended without being asked to."""


class Pinnable(Protocol):
    """A batch of tensors."""

    def pin_memory(self) -> Any:
        """The same in page-locked memory."""
        ...


class Planner(Protocol[Plan]):
    """Says what an epoch shows."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches in every epoch, the same on all ranks."""
        ...

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[list[Plan]]:
        """The plans of each batch of an epoch, from `first_batch` on."""
        ...


class EpochLoader(Generic[Plan, Batch]):
    """The batches of one rank, by a planner's plans.

    `render` is called in the workers and makes a batch of its plans. Only one epoch is under way
    at a time: to start another ends it.
    """

    def __init__(
        self, planner: Planner[Plan], render: Callable[[list[Plan]], Batch], *, num_workers: int
    ) -> None:
        self._planner = planner
        self._render = render
        self._plans = _Plans(planner)
        self._num_workers = num_workers
        self._loader: DataLoader[Batch] | None = None
        # torch's iterator over all epochs, which owns the worker processes.
        self._workers: Any = None
        self._underway: Iterator[Batch] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches in every epoch, the same on all ranks."""
        return self._planner.batches_per_epoch

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_batch` on.

        Raises WorkerLost, or UnreadableImage when no replacement for an image can be read.
        """
        self._end_epoch()
        self._underway = self._batches(epoch, first_batch)
        return self._underway

    def close(self) -> None:
        """End the workers; the loader may be used again, and starts new ones."""
        self._end_epoch()
        if self._workers is not None:
            # torch offers no other way than to drop every reference, and tracebacks hold some.
            self._workers._shutdown_workers()
        self._loader = self._workers = None

    def _end_epoch(self) -> None:
        if self._underway is not None:
            self._underway.close()  # type: ignore[attr-defined]
            self._underway = None

    def _batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        if not self._num_workers:
            for plans in self._planner.batches(epoch, first_batch):
                batch = self._render(plans)
                yield batch.pin_memory() if torch.cuda.is_available() else batch
            return
        self._plans.begin(epoch, first_batch)
        batches = self._start()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError) as error:
                raise _explained(error) from error
            if isinstance(batch, UnreadableImage):
                raise batch
            yield batch

    def _start(self) -> Iterator[Batch | UnreadableImage]:
        with signals_in_order(), warnings.catch_warnings():
            # Python warns of forks beside threads; `workers` says why these are safe.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            # More workers than cores are the user's choice, and lose nothing.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            if self._loader is None:
                _close_at_exit(self)
                self._loader = DataLoader(
                    _Rendering(self._render),
                    batch_sampler=self._plans,  # type: ignore[arg-type]
                    num_workers=self._num_workers,
                    collate_fn=_as_it_is,
                    pin_memory=torch.cuda.is_available(),
                    worker_init_fn=partial(_prepare, parent=os.getpid()),
                    multiprocessing_context=multiprocessing.get_context("fork"),
                    # torch would draw a seed for its workers from the global generator.
                    generator=torch.Generator(),
                    prefetch_factor=_PREFETCHED,
                    persistent_workers=True,
                )
            self._workers = iter(self._loader)
        return self._workers


def _close_at_exit(loader: EpochLoader[Any, Any]) -> None:
    """At its end, Python waits for processes that it asks to stop, and workers do not listen."""
    known = weakref.ref(loader)

    def close() -> None:
        open_loader = known()
        if open_loader is not None:
            open_loader.close()

    atexit.register(close)


class _Plans(Generic[Plan]):
    """What torch's loader takes for a sampler of batches: the plans of the epoch set last."""

    def __init__(self, planner: Planner[Plan]) -> None:
        self._planner = planner
        self._epoch, self._first_batch = 0, 0

    def begin(self, epoch: int, first_batch: int) -> None:
        """Set what the next iteration gives."""
        self._epoch, self._first_batch = epoch, first_batch

    def __iter__(self) -> Iterator[list[Plan]]:
        return self._planner.batches(self._epoch, self._first_batch)

    def __len__(self) -> int:
        return self._planner.batches_per_epoch - self._first_batch


class _Rendering(Dataset[Batch], Generic[Plan, Batch]):
    """What torch's loader takes for a data set, addressed by plans; lives in the workers."""

    def __init__(self, render: Callable[[list[Plan]], Batch]) -> None:
        self._render = render

    def __getitem__(self, plan: Plan) -> Batch:
        return self._render([plan])

    def __getitems__(self, plans: list[Plan]) -> Batch | UnreadableImage:
        """The finished batch of these plans.

        The error that is no mistake is handed over as a value: raised, torch would put this
        process's traceback into its message.
        """
        try:
            return self._render(plans)
        except UnreadableImage as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare(_worker: int, *, parent: int) -> None:
    prepare_worker(parent)


def _explained(error: Exception) -> Exception:
    """A lost worker in terms of what to do; anything else as it is.

    torch either notices that it is gone, or fails to fetch what it had finished.
    """
    is_its_own = "in DataLoader worker process" in str(error)
    is_noticed = str(error).startswith("DataLoader worker")
    if is_its_own or not (is_noticed or isinstance(error, (EOFError, OSError))):
        return error
    return WorkerLost(
        "a data worker was killed, most likely because memory ran out: lower data.num_workers, "
        "data.cache_mib or data.batch_size, or give the container more shared memory"
    )
