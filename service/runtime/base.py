"""What runs an exported graph. A sibling module is one way to do it."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: Outputs of the graph by name; the first axis is the batch.
Outputs = Mapping[str, NDArray[np.generic]]


class Runtime(Protocol):
    """A loaded model.

    `infer` may be called from up to `concurrency` threads at once, with at most `max_batch_size`
    pictures each.
    """

    @property
    def description(self) -> str:
        """For people: the runtime, its precision, its threads."""
        ...

    @property
    def reason(self) -> str:
        """For people: why this runtime, and why this precision."""
        ...

    @property
    def concurrency(self) -> int:
        """How many calls of `infer` keep the engine busy."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `infer` gives."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Pictures that one call takes at most."""
        ...

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8 BGR [n, h, w, 3] -> outputs that the caller owns. Raises what the engine raises."""
        ...

    def close(self) -> None:
        """Release the engine. No call may be running."""
        ...
