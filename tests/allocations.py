"""What a computation in torch allocates on the CPU: counted, not timed."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The profiler's library writes two lines per use to the standard error stream otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


class _LargestTensor(TorchDispatchMode):
    """Looks at the result of every operation, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.num_bytes = max(self.num_bytes, leaf.untyped_storage().nbytes())
        return result


def largest_tensor_bytes(function: Callable[[], object]) -> int:
    """Size of the largest tensor that any operation of a call gives."""
    with _LargestTensor() as largest:
        function()
    return largest.num_bytes


def peak_bytes(function: Callable[[], object]) -> int:
    """How much more memory a call holds at its worst moment than before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    held = peak = 0
    for event in sorted(
        (each for each in events if each["name"] == "[memory]"), key=lambda each: each["ts"]
    ):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak
