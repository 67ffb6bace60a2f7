"""Where a run stands: a pure function of batches done, so that a resumed run stands there too."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, order=True)
class Position:
    """Epochs done, and batches of the next one that are done (on each rank)."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Pace:
    """How an epoch is cut into steps of the optimizer.

    A step takes `accumulation_steps` batches; the last of an epoch takes what is left.
    """

    epochs: int
    batches_per_epoch: int
    accumulation_steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in each epoch."""
        return -(-self.batches_per_epoch // self.accumulation_steps)

    @property
    def total_steps(self) -> int:
        """Steps of the optimizer in the whole run."""
        return self.epochs * self.steps_per_epoch

    def step(self, position: Position) -> int:
        """Steps done at a position, which lies between two steps."""
        return position.epoch * self.steps_per_epoch + -(-position.batch // self.accumulation_steps)

    def batches_of_next_step(self, position: Position) -> int:
        """How many batches the step after a position takes."""
        return min(self.accumulation_steps, self.batches_per_epoch - position.batch)

    def after_next_step(self, position: Position) -> Position:
        """Where the run stands one step later."""
        batch = position.batch + self.batches_of_next_step(position)
        if batch == self.batches_per_epoch:
            return Position(position.epoch + 1, 0)
        return Position(position.epoch, batch)

    def transferred(self, position: Position, theirs: Self) -> Position:
        """The same place in the data, for a run that went on at pace `theirs`.

        Other numbers of ranks or batch sizes cut an epoch differently: the place is rounded down
        to a whole step, so that nothing is left out.
        """
        if theirs == self:
            return position
        done = position.batch * self.batches_per_epoch // max(theirs.batches_per_epoch, 1)
        return Position(position.epoch, done - done % self.accumulation_steps)
