"""What runs a network for an evaluation. A sibling module is one way to do it."""

from collections.abc import Sequence
from typing import Protocol

from model.config import Task
from model.postprocess import Candidates
from training.evaluation.inference import NetworkInput


class Predictor(Protocol):
    """Finds candidates in prepared inputs, whatever runs the network.

    `candidates` may be called from up to `concurrency` threads at once, with at most
    `max_batch_size` inputs each.
    """

    @property
    def task(self) -> Task:
        """What kind of boxes the network gives."""
        ...

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the inputs in pixels."""
        ...

    @property
    def description(self) -> str:
        """For people: the runtime, its version, the device, the precision."""
        ...

    @property
    def concurrency(self) -> int:
        """How many calls of `candidates` keep it busy."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Inputs that one call takes at most."""
        ...

    def candidates(self, inputs: Sequence[NetworkInput]) -> list[Candidates]:
        """Those of each input, before suppression. How they are selected was told before."""
        ...
