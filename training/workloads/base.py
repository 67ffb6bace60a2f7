"""What the trainer needs of a kind of training: detectors and classifiers are its two.

A workload knows its data, its network and its losses; the trainer knows steps, epochs, ranks,
checkpoints and nothing of images.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.weights import Network


class Batch(Protocol):
    """One rank's share of a step, as tensors."""

    @property
    def images(self) -> Tensor:
        """What the network sees, uint8 [n, h, w, 3] BGR."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """Images that could not be read and were replaced, a line each."""
        ...

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Batch":
        """The same on another device."""
        ...


class BatchLosses(NamedTuple):
    """What is minimised, and its parts by name, for people."""

    total: Tensor
    parts: dict[str, Tensor]


class Workload(Protocol):
    """One kind of training on one data set, for one rank.

    The batches that a workload is handed are those that it gave.
    """

    @property
    def network(self) -> Network:
        """What is trained."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each rank takes in an epoch."""
        ...

    @property
    def can_be_evaluated(self) -> bool:
        """Whether there are validation images."""
        ...

    @property
    def primary_metric(self) -> str:
        """The metric that decides which weights are best; more is better."""
        ...

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """This rank's batches of an epoch, from `first_batch` on."""
        ...

    def losses(self, model: nn.Module, batch: Any) -> BatchLosses:
        """Run `model` (the network, perhaps wrapped) on a batch that is on its device."""
        ...

    def tensors(self, batches: Sequence[Any]) -> Mapping[str, Tensor]:
        """The batches of a step as named tensors, to be kept for inspection."""
        ...

    def draw_sample(self, epoch: int) -> NDArray[np.uint8]:
        """A picture (BGR) of the first batch of an epoch, to see what is trained on."""
        ...

    def save(self, network: nn.Module, stem: Path, metrics: Mapping[str, float]) -> None:
        """Write weights that can be exported, as the file `stem` with a suffix."""
        ...

    def publish(self, weights: Path, stem: Path, metrics: Mapping[str, float]) -> None:
        """Write what `save` wrote as `weights` once more, as `stem`, now that it has `metrics`."""
        ...

    def close(self) -> None:
        """End the worker processes."""
        ...
