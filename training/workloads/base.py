"""What the trainer needs of a kind of training: detectors and classifiers are its two.

A workload knows its data, its network and its losses; the trainer knows steps, epochs, ranks,
checkpoints and nothing of images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Batch(Protocol):
    """One rank's share of a step, as tensors."""

    images: Tensor
    problems: tuple[str, ...]

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Batch":
        """The same on another device."""
        ...


class BatchLosses(NamedTuple):
    """What is minimised, and its parts by name, for people."""

    total: Tensor
    parts: dict[str, Tensor]


class Workload(Protocol):
    """One kind of training on one data set, for one rank."""

    network: nn.Module
    batches_per_epoch: int
    #: The metric that decides which weights are best; more is better.
    primary_metric: str

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """This rank's batches of an epoch, from `first_batch` on."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> BatchLosses:
        """Run `model` (the network, perhaps wrapped) on a batch that is on its device."""
        ...

    def evaluate(self, network: nn.Module, watch: "Watch") -> dict[str, float] | None:
        """The metrics of `network` on the validation images, the same on every rank.

        All ranks call it. None where `watch` asked any of them to stop, or nothing is there to
        evaluate on.
        """
        ...

    def tensors(self, batch: Batch) -> Mapping[str, Tensor]:
        """A batch as named tensors, to be kept for inspection."""
        ...

    def write_samples(self, folder: "SampleFolder", epochs: Sequence[int]) -> None:
        """Draw a batch of each of those epochs, so that people see what is trained on."""
        ...

    def save(self, network: nn.Module, stem: Path, metrics: Mapping[str, float]) -> None:
        """Write weights that can be exported, as the file `stem` with a suffix."""
        ...

    def close(self) -> None:
        """End the worker processes."""
        ...


#: Where pictures of samples go: called with the file's stem and a BGR picture.
SampleFolder = Callable[[str, object], None]


class Watch(Protocol):
    """Looks on while something takes long."""

    def __call__(self, done: int, total: int) -> bool:
        """So much of it is done; whether to go on."""
        ...
