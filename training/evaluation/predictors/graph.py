"""A graph as it is exported, run by whatever opens it: the runtime that serves, or another.

A graph is opened in one of two ways: with the tensors before its selection, of which candidates
are selected as for the published figures; or with its own outputs, which serving post-processes.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from model.config import STRIDES, Task
from model.postprocess import (
    Candidates,
    DenseOutputs,
    Floats,
    PostprocessSettings,
    select_candidates,
)
from training.evaluation.inference import NetworkInput

#: Tensors before the selection, by task; the names that `model.graph` gives them.
DENSE_OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    "detect": ("dense_logits", "dense_boxes"),
    "instance": ("dense_logits", "dense_boxes", "dense_kernels", "mask_features"),
    "rotated": ("dense_logits", "dense_boxes"),
}


class GraphRuntime(Protocol):
    """A loaded graph; every runtime that serves is one.

    `infer` may be called from up to `concurrency` threads at once, with at most `max_batch_size`
    pictures each.
    """

    @property
    def description(self) -> str:
        """For people: the runtime, its version, the device, the precision."""
        ...

    @property
    def concurrency(self) -> int:
        """How many calls of `infer` keep it busy."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Pictures that one call takes at most."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `infer` gives."""
        ...

    def infer(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.generic]]:
        """uint8 BGR [n, h, w, 3] -> outputs by name, the first axis the batch."""
        ...

    def close(self) -> None:
        """Release what is held. No call may be running."""
        ...


class GraphPredictor:
    """Candidates of a graph: those that it selects itself, or those of its dense tensors.

    `settings` say how to select of dense tensors, and nothing for a graph that selects itself.
    Raises ValueError for a graph that gives neither all of the one nor all of the other.
    """

    def __init__(
        self,
        runtime: GraphRuntime,
        *,
        task: Task,
        input_size: tuple[int, int],
        settings: PostprocessSettings,
    ) -> None:
        self.task: Task = task
        self.input_size = input_size
        self._runtime = runtime
        self._settings = settings
        self._is_dense = set(DENSE_OUTPUTS[task]) <= set(runtime.output_names)
        if not self._is_dense and not {"boxes", "scores", "labels"} <= set(runtime.output_names):
            raise ValueError(
                f"the graph gives {', '.join(runtime.output_names)}, and a model for '{task}' "
                "gives other tensors; export it again"
            )
        self._priors = prior_table(input_size)

    @property
    def description(self) -> str:
        """The runtime's."""
        return self._runtime.description

    @property
    def concurrency(self) -> int:
        """The runtime's."""
        return self._runtime.concurrency

    @property
    def max_batch_size(self) -> int:
        """The runtime's."""
        return self._runtime.max_batch_size

    def candidates(self, inputs: Sequence[NetworkInput]) -> list[Candidates]:
        """Those of each input, before suppression."""
        pixels = np.stack([each.pixels for each in inputs])
        # All are float32 but the labels.
        outputs = cast("Mapping[str, Floats]", self._runtime.infer(pixels))
        rows = [{name: value[row] for name, value in outputs.items()} for row in range(len(inputs))]
        return [self._of_row(row) for row in rows]

    def _of_row(self, row: Mapping[str, Floats]) -> Candidates:
        if not self._is_dense:
            return Candidates(
                boxes=row["boxes"],
                scores=row["scores"],
                labels=cast("NDArray[np.int32]", row["labels"]),
                kernels=row.get("kernels"),
                priors=row.get("priors"),
                mask_features=row.get("mask_features"),
            )
        dense = DenseOutputs(
            logits=row["dense_logits"],
            boxes=row["dense_boxes"],
            priors=self._priors,
            kernels=row.get("dense_kernels"),
            mask_features=row.get("mask_features"),
        )
        settings = self._settings
        return select_candidates(dense, settings.score_threshold, settings.candidates_per_level)


def prior_table(input_size: tuple[int, int]) -> Floats:
    """The priors of an input of (height, width) pixels, as `model.boxes.input_priors` has them.

    float32 [p, 3] of (x, y, stride), finest level first, row by row.
    """
    height, width = input_size
    levels = []
    for stride in STRIDES:
        ys, xs = np.mgrid[: height // stride, : width // stride].reshape(2, -1) * stride
        levels.append(np.stack([xs, ys, np.full_like(xs, stride)], axis=1))
    return np.concatenate(levels).astype(np.float32)
