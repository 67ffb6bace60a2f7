"""What learns in a run, and where the run stands: all that a checkpoint has to hold."""

from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer

from training.optimisation.ema import WeightAverage
from training.position import Position
from training.step import Stepper


@dataclass
class Standing:
    """What the loop has to remember from step to step.

    `requested` is after how many epochs an evaluation was last asked for; `unreadable` has a line
    for each image that could not be read. Known to the first rank alone: `evaluated`, after how
    many epochs the last evaluation was whose result is known, and `best`, the best value so far of
    the metric that decides.
    """

    position: Position = field(default_factory=Position)
    requested: int = 0
    evaluated: int = 0
    best: float | None = None
    num_rollbacks: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Learner:
    """The network, what moves it, the average of its weights, and how far they are.

    `network` is the plain one; the stepper runs it wrapped.
    """

    network: nn.Module
    optimizer: Optimizer
    average: WeightAverage
    stepper: Stepper
    standing: Standing = field(default_factory=Standing)
