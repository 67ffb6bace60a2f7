"""A module of torch on a GPU, captured as one CUDA graph for every size of batch.

`service.runtime.torch_cuda` alone uses it, and is the only other module that imports torch.
"""

# torch's own annotations are incomplete.
# pyright: reportUnknownMemberType=false

import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.runtime.base import Outputs
from service.runtime.batch_buckets import batch_buckets, smallest_bucket

logger = logging.getLogger(__name__)

#: Calls before a capture: cuDNN tries its algorithms, and libraries allocate what they keep.
_NUM_WARM_UPS = 3

#: One batch is on the GPU while another's arrays are copied by the processor.
_NUM_LANES = 2


@dataclass(frozen=True, eq=False)
class _Program:
    """The module for one size of batch. `outputs` lie on the GPU; every replay overwrites them."""

    cuda_graph: torch.cuda.CUDAGraph
    outputs: Mapping[str, Tensor]


class _Lane:
    """Memory of the processor that the GPU copies from and to by itself; one call has it."""

    def __init__(self, images: Tensor, outputs: Mapping[str, Tensor]) -> None:
        self.images = _pinned_like(images)
        self.outputs = {name: _pinned_like(values) for name, values in outputs.items()}
        self.image_array: NDArray[np.uint8] = self.images.numpy()
        self.output_arrays: dict[str, NDArray[Any]] = {
            name: values.numpy() for name, values in self.outputs.items()
        }
        # A call that waits leaves its core to others.
        self.is_done = torch.cuda.Event(blocking=True)


class CudaGraphs:
    """Captured graphs by size of batch, over one input on the GPU and a stream of their own.

    A batch takes the smallest size that holds it; what is in the remaining rows is not read. Calls
    are queued on the stream as a whole, one after the other; they wait side by side, and fill and
    empty lanes of their own meanwhile.
    """

    concurrency = _NUM_LANES

    def __init__(
        self,
        module: nn.Module,
        *,
        input_size: tuple[int, int],
        device: torch.device,
        max_batch_size: int,
        names: tuple[str, ...],
    ) -> None:
        """`module`, on the device, takes uint8 [n, h, w, 3] and gives tensors [n, ...] by name.

        `names` are those that are wanted. Where the memory is too little for `max_batch_size` it
        becomes less, and where the GPU cannot capture the module runs as it is; `remark` says so.
        Only one may be built at a time. Raises torch.OutOfMemoryError where not even one picture
        fits.
        """
        self._module = module
        self._names = names
        self._stream = torch.cuda.Stream(device)
        self._lock = threading.Lock()
        self._programs: dict[int, _Program] = {}
        self._images = torch.zeros(
            (max_batch_size, *input_size, 3), dtype=torch.uint8, device=device
        )
        # Weights and input were written on another stream.
        torch.cuda.synchronize(device)
        outputs = self._prepare(batch_buckets(max_batch_size))
        self.max_batch_size = len(next(iter(outputs.values())))
        self._buckets = batch_buckets(self.max_batch_size)
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(_NUM_LANES):
            self._lanes.put(_Lane(self._images[: self.max_batch_size], outputs))

    @property
    def captured_sizes(self) -> tuple[int, ...]:
        """Sizes of batch that run as CUDA graphs."""
        return tuple(sorted(self._programs))

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8 [n, h, w, 3] -> outputs by name. Raises RuntimeError where the GPU fails."""
        count = len(images)
        bucket = smallest_bucket(self._buckets, count)
        lane = self._lanes.get()
        try:
            lane.image_array[:count] = images
            with self._lock, torch.inference_mode(), torch.cuda.stream(self._stream):
                self._images[:count].copy_(lane.images[:count], non_blocking=True)
                for name, values in self._queued(bucket).items():
                    lane.outputs[name][:count].copy_(values[:count], non_blocking=True)
                lane.is_done.record(self._stream)
            lane.is_done.synchronize()
            return {name: values[:count].copy() for name, values in lane.output_arrays.items()}
        finally:
            self._lanes.put(lane)

    def _queued(self, bucket: int) -> Mapping[str, Tensor]:
        """One pass over the first `bucket` rows of the input, queued on the current stream."""
        program = self._programs.get(bucket)
        if program is None:
            return self._run(bucket)
        program.cuda_graph.replay()
        return program.outputs

    def _run(self, bucket: int) -> dict[str, Tensor]:
        outputs = cast("dict[str, Tensor]", self._module(self._images[:bucket]))
        # Dense rows are copied to the processor in one piece, and without it.
        return {name: outputs[name].contiguous() for name in self._names}

    def _prepare(self, buckets: tuple[int, ...]) -> Mapping[str, Tensor]:
        """Capture every size that the memory holds; gives the outputs of the largest.

        The largest comes first, so that the others find room in what it took.
        """
        largest: Mapping[str, Tensor] | None = None
        problem = ""
        pool = torch.cuda.graph_pool_handle()
        for bucket in reversed(buckets):
            try:
                outputs = self._warm_up(bucket)
                if not problem:
                    problem = self._capture(bucket, pool)
            except torch.OutOfMemoryError:
                if bucket == 1:
                    raise
                logger.warning("the GPU has too little memory for batches of %d", bucket)
                torch.cuda.empty_cache()
                continue
            if largest is None:
                largest = outputs
        assert largest is not None
        if problem:
            self._programs.clear()
            logger.warning("CUDA graphs cannot be captured, which costs speed: %s", problem)
            self.remark = f"without CUDA graphs: {problem}"
        else:
            sizes = ", ".join(map(str, self.captured_sizes))
            self.remark = f"CUDA graphs for batches of {sizes}"
        return largest

    def _warm_up(self, bucket: int) -> Mapping[str, Tensor]:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(_NUM_WARM_UPS - 1):
                self._run(bucket)
            outputs = self._run(bucket)
        self._stream.synchronize()
        return outputs

    def _capture(self, bucket: int, pool: Any) -> str:
        """Capture one size; gives what went wrong, in one line, or nothing.

        Raises torch.OutOfMemoryError.
        """
        cuda_graph = torch.cuda.CUDAGraph()
        try:
            # The outer context puts the stream back where the capture's own does not, for a failed
            # capture leaves it early. Another model may be serving meanwhile: "thread_local" counts
            # only what this thread does wrong.
            with (
                torch.inference_mode(),
                torch.cuda.stream(self._stream),
                torch.cuda.graph(
                    cuda_graph,
                    pool=pool,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ),
            ):
                outputs = self._run(bucket)
        except RuntimeError as error:
            # What the end of a broken capture raises hides what broke it.
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            return str(cause).strip().partition("\n")[0]
        self._programs[bucket] = _Program(cuda_graph, outputs)
        return ""


def _pinned_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
