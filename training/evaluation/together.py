"""How the ranks of an evaluation go from batch to batch, so that none waits for one that failed."""

from typing import Protocol, TypeVar

import torch

from training.data.sampling.images import UnreadableImage

Value = TypeVar("Value")


class RankGroup(Protocol):
    """This process among others; `training.distributed.Ranks` is one."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""
        ...

    @property
    def num_ranks(self) -> int:
        """How many there are."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its network is."""
        ...

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, on every rank."""
        ...

    def from_first(self, value: Value) -> Value:
        """What the first rank has, on every rank."""
        ...


def all_go_on(ranks: RankGroup, problem: str | None, *, goes_on: bool) -> bool:
    """Whether every rank goes on; all call it after each batch.

    `problem`: why this one cannot read an image. Raises UnreadableImage on all if any cannot.
    """
    states = ranks.gather((problem, goes_on))
    for each, _ in states:
        if each is not None:
            raise UnreadableImage(each)
    return all(others for _, others in states)
