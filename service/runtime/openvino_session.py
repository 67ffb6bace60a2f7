"""The embedded runtime: OpenVINO on the processor, in this process.

A graph is compiled twice: once for latency, all threads on one picture, and once for throughput,
a thread per picture. A request that is alone takes the first, concurrent ones the second.

Left to itself, OpenVINO computes in bfloat16 where the processor has it. Here a model does so only
if it finds what it finds in float32 (`service.runtime.precision`).
"""

# OpenVINO's own annotations are incomplete, and wrong for the constructor of `Model`.
# pyright: reportUnknownMemberType=false, reportGeneralTypeIssues=false

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.manifest import GRAPH_OUTPUTS, Evaluation
from service.cores import is_quota_limited, num_usable_cores
from service.runtime.base import Outputs
from service.runtime.precision import (
    EXACT,
    trial_picture,
    verdict_by_picture,
    verdict_on_record,
)
from service.runtime.silent_openvino import ov
from service.settings import Precision

_DEVICE = "CPU"
_PRECISION = "INFERENCE_PRECISION_HINT"

_Options = Mapping[str, object]


#: Calls beyond those that run, so that a stream which ends one finds the next and does not wait for
#: the event loop to hear of it: that took 6 % of the time of small models.
CALLS_AHEAD = 1


@cache
def _core() -> ov.Core:
    """One for the process, for ever: with the last one OpenVINO unloads its plugin, and a signal
    that comes after that ends the process by a fault (seen with 2026.4).
    """
    return ov.Core()


class OpenVINOSession:
    """One model compiled for one input size, a picture at a time.

    On a processor a larger batch brings no throughput (the convolutions fill it already) and
    costs latency, so the batch is fixed to one and pictures run side by side instead.
    """

    max_batch_size = 1

    def __init__(
        self,
        graph_path: Path,
        *,
        input_size: tuple[int, int],
        precision: Precision = "auto",
        num_threads: int = 0,
        outputs: tuple[str, ...] | None = None,
        evaluations: tuple[Evaluation, ...] = (),
        reason: str = "",
    ) -> None:
        """Compile for pictures of `input_size` (height, width).

        `precision` auto takes bf16 where the processor has it and the model stays what it is by
        `evaluations` of its manifest, or else by a trial. `num_threads` 0 takes every core that the
        process may use. `outputs` names tensors of the graph to be given instead of its own
        outputs. `reason` says why this runtime was chosen. Raises RuntimeError where OpenVINO
        cannot read or compile the graph.
        """
        core = _core()
        graph = core.read_model(graph_path)
        _require_input_size(graph, input_size)
        graph.reshape({graph.input(0): [1, *input_size, 3]})
        threads = num_threads or num_usable_cores()
        shared: dict[str, object] = {"INFERENCE_NUM_THREADS": threads}
        if is_quota_limited():
            # Every process of the node would tie its threads to the same first cores.
            shared["ENABLE_CPU_PINNING"] = False
        alone = shared | {"NUM_STREAMS": 1}
        if precision == "auto":
            chosen = _examined(core, graph, alone, evaluations)
        else:
            chosen = _Chosen(precision, f"{precision}: as set")
        self.reason = "; ".join(filter(None, (reason, chosen.reason)))
        hint = {_PRECISION: chosen.precision}
        if outputs is not None:
            graph = _cut(graph, outputs)
        self._names = _names_of(graph, outputs or GRAPH_OUTPUTS)
        if outputs is None and chosen.compiled is not None:
            self._alone = chosen.compiled
        else:
            self._alone = core.compile_model(graph, _DEVICE, alone | hint)
        together = shared | {"NUM_STREAMS": threads}
        self._together = core.compile_model(graph, _DEVICE, together | hint)
        if precision not in ("auto", self.precision):
            raise ValueError(
                f"precision {precision} is not available on this processor, which would compute "
                f"in {self.precision}; choose that, f32 or auto"
            )
        self._concurrency = threads + CALLS_AHEAD
        self._alone_request = self._alone.create_infer_request()
        self._requests: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(self._concurrency):
            self._requests.put(self._together.create_infer_request())
        self._num_running = 0
        self._lock = threading.Lock()
        # The first inference of a request allocates its buffers; let no caller wait for that.
        blank = np.zeros((1, *input_size, 3), np.uint8)
        self._run(self._alone_request, blank)
        for _ in range(self._concurrency):
            request = self._requests.get()
            self._run(request, blank)
            self._requests.put(request)

    @property
    def concurrency(self) -> int:
        """One picture per thread, and those that wait in the engine for one to be free."""
        return self._concurrency

    @property
    def output_names(self) -> tuple[str, ...]:
        """What `infer` gives."""
        return tuple(self._names)

    @property
    def precision(self) -> str:
        """Arithmetic that OpenVINO chose: `f32`, `bf16` or `f16`."""
        hint = self._alone.get_property(_PRECISION)
        return hint.get_type_name()

    @property
    def description(self) -> str:
        """As shown by `/models`."""
        return f"OpenVINO {ov.__version__.split('-')[0]} CPU {self.precision}"

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8 BGR [1, h, w, 3] -> the graph's outputs."""
        with self._lock:
            alone = self._num_running == 0
            self._num_running += 1
        try:
            if alone:
                return self._run(self._alone_request, images)
            request = self._requests.get()
            try:
                return self._run(request, images)
            finally:
                self._requests.put(request)
        finally:
            with self._lock:
                self._num_running -= 1

    def close(self) -> None:
        """Release compiled graphs now; their threads stay with the plugin, for the next.

        OpenVINO does so with its objects, and this one may live on for long: a served model and its
        queue refer to each other, and such circles are collected late, or never where they were
        there when the server began.
        """
        self._requests = queue.SimpleQueue()
        del self._alone_request, self._alone, self._together

    def _run(self, request: ov.InferRequest, images: NDArray[np.uint8]) -> Outputs:
        request.infer({0: ov.Tensor(images, shared_memory=True)}, share_inputs=True)
        # The request's own buffers are written again by its next inference.
        return {
            name: np.array(request.get_output_tensor(index).data)
            for index, name in enumerate(self._names)
        }


def _require_input_size(graph: ov.Model, input_size: tuple[int, int]) -> None:
    """The graph decodes for the size that it was exported for, and for no other."""
    _, height, width, _ = graph.input(0).partial_shape
    if (height.get_length(), width.get_length()) != input_size:
        raise ValueError(
            f"the graph takes pictures of {height.get_length()}x{width.get_length()}, its "
            f"manifest says {input_size[0]}x{input_size[1]}; export the model again"
        )


def _names_of(graph: ov.Model, known: tuple[str, ...]) -> list[str]:
    """Of every output the name that we know: tensors that OpenVINO merged have several."""
    return [next(name for name in known if name in output.get_names()) for output in graph.outputs]


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A precision and why; `compiled` is the whole graph in it, where that was needed to know."""

    precision: str
    reason: str
    compiled: ov.CompiledModel | None = None


def _examined(
    core: ov.Core, graph: ov.Model, options: _Options, evaluations: tuple[Evaluation, ...]
) -> _Chosen:
    """The processor's fastest precision if the model stays what it is, else float32.

    Without evaluations on record the graph is compiled in both, for a picture each: one compilation
    more than is needed to serve.
    """
    fast = core.get_property(_DEVICE, _PRECISION).get_type_name()
    if fast == EXACT:
        return _Chosen(EXACT, f"{EXACT}: this processor has nothing faster")
    verdict = verdict_on_record(evaluations, "OpenVINO", fast)
    if verdict is not None:
        return _Chosen(fast if verdict.accepted else EXACT, verdict.reason)
    _, height, width, _ = graph.input(0).shape
    picture = trial_picture(height, width)
    compiled: dict[str, ov.CompiledModel] = {}
    outputs: dict[str, Outputs] = {}
    for precision in (EXACT, fast):
        model = core.compile_model(graph, _DEVICE, {**options, _PRECISION: precision})
        results = model(picture)
        names = _names_of(graph, GRAPH_OUTPUTS)
        compiled[precision] = model
        outputs[precision] = {name: np.array(results[place]) for place, name in enumerate(names)}
    verdict = verdict_by_picture(outputs[EXACT], outputs[fast], fast)
    precision = fast if verdict.accepted else EXACT
    return _Chosen(precision, verdict.reason, compiled[precision])


def _cut(graph: ov.Model, names: tuple[str, ...]) -> ov.Model:
    """The part of `graph` that computes the tensors of these names."""
    found = {
        name: output
        for op in graph.get_ordered_ops()
        for output in op.outputs()
        for name in output.get_names()
        if name in names
    }
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"the graph has no tensor named {', '.join(missing)}")
    # An output of the graph has its result already; a second one confuses the plugin.
    present = {name: each for each in graph.get_results() for name in each.output(0).get_names()}
    results = [present.get(name) or ov.opset13.result(found[name]) for name in names]
    return ov.Model(results, graph.get_parameters(), graph.get_friendly_name())
