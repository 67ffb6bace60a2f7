"""Torch in this process: for a machine with an NVIDIA GPU and no Triton.

It serves the very `model.onnx` that the others do: the weights are read back out of the graph, and
`model.graph` is what they were exported from. On a GPU every size of batch is captured once as a
CUDA graph (`service.runtime.cuda_graphs`), so that a call costs one launch and not hundreds. On a
processor, where OpenVINO is faster, it runs as it is: to be tested, or for want of anything else.

float32 is exact here: TF32, with ten bits of mantissa in its stead, is off. Normalisation, decoding
and selection are in float32 in every precision, as in the graph. torch is imported only where this
runtime is chosen.
"""

# torch's own annotations are incomplete.
# pyright: reportUnknownMemberType=false

import copy
import logging
import threading
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoints.exported_weights import load_exported
from model.folding import fold_batch_norms
from model.graph import ServingGraph
from model.heads.outputs import HeadOutputs
from model.manifest import GRAPH_OUTPUTS, TASK_OUTPUTS, VersionManifest
from model.rtmdet import RTMDet
from service.cores import num_usable_cores
from service.runtime.base import Outputs
from service.runtime.batch_buckets import batch_buckets, smallest_bucket
from service.runtime.choice import CudaDevice
from service.runtime.cuda_graphs import CudaGraphs
from service.runtime.precision import EXACT, trial_picture, verdict_by_picture
from service.settings import Precision

logger = logging.getLogger(__name__)

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

#: The compute capability from which a GPU has tensor cores for a precision. Without them float16 is
#: slower than float32 on some.
_SINCE_CAPABILITY = {"f16": (7, 0), "bf16": (8, 0)}

#: The outputs of `ServingGraph` that candidates are selected from begin so.
_DENSE_PREFIX = "dense_"

#: One model at a time: a capture forbids much, and cuDNN's switches are the process's.
_OPENING = threading.Lock()


def cuda_device() -> CudaDevice:
    """The GPU that torch would use, or why it cannot use one."""
    if torch.version.cuda is None:
        return CudaDevice(problem=f"torch {torch.__version__} is built without CUDA")
    version = f"torch {_version()} with CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        return CudaDevice(
            problem=f"{version} cannot use it; nvidia-smi says whether the driver works, and for "
            "which CUDA"
        )
    return CudaDevice(f"{torch.cuda.get_device_name(0)}, {version}")


class TorchSession:
    """One model on a GPU, in batches; or on the processor."""

    def __init__(
        self,
        graph_path: Path,
        *,
        precision: Precision = "auto",
        device: str | None = None,
        max_batch_size: int = 16,
        num_threads: int = 0,
        outputs: tuple[str, ...] | None = None,
        reason: str = "",
    ) -> None:
        """Read `NAME/VERSION/model.onnx` of a repository and make it ready for every batch size.

        `device` is "cuda" or "cpu", by default a GPU where there is one. `num_threads` concerns the
        processor; 0 takes every core that the process may use. `outputs` names tensors to be given
        instead of the graph's own outputs. `reason` says why this runtime was chosen. Raises
        ValueError for a file that cannot be read and a precision that the device lacks, and
        RuntimeError where the GPU fails or has too little memory for one picture.
        """
        network, manifest = load_exported(graph_path)
        self._device = _device_of(device)
        self.output_names = outputs or _outputs_of(manifest)
        _require_known(self.output_names, manifest)
        with _OPENING:
            if self._device.type == "cuda":
                torch.backends.cudnn.allow_tf32 = False
            else:
                torch.set_num_threads(num_threads or num_usable_cores())
            module, self.precision, chosen = _in_precision(
                fold_batch_norms(network), manifest, self._device, precision
            )
            engine = _engine(
                module, manifest.input_size, self._device, max_batch_size, self.output_names
            )
        self.max_batch_size = engine.max_batch_size
        self.concurrency = engine.concurrency
        self.reason = "; ".join(filter(None, (reason, chosen, engine.remark)))
        self._engine: CudaGraphs | _OnProcessor | None = engine

    @property
    def description(self) -> str:
        """As shown by `/models`: "torch 2.13.0 NVIDIA H200 f16"."""
        name = "CPU" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        return f"torch {_version()} {name} {self.precision}"

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8 BGR [n, h, w, 3], n up to `max_batch_size` -> outputs by name, first axis n.

        Raises RuntimeError where the GPU fails.
        """
        assert self._engine is not None
        assert 1 <= len(images) <= self.max_batch_size
        return self._engine.infer(images)

    def close(self) -> None:
        """Give the memory back."""
        self._engine = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _OnProcessor:
    """Runs the graph as it is, padded to the same sizes of batch as on a GPU."""

    concurrency = 1
    remark = ""

    def __init__(
        self,
        module: nn.Module,
        input_size: tuple[int, int],
        max_batch_size: int,
        names: tuple[str, ...],
    ) -> None:
        self.max_batch_size = max_batch_size
        self._module = module
        self._names = names
        self._buckets = batch_buckets(max_batch_size)
        self._images = torch.zeros((max_batch_size, *input_size, 3), dtype=torch.uint8)
        self._lock = threading.Lock()

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        count = len(images)
        with self._lock, torch.inference_mode():
            self._images.numpy()[:count] = images
            outputs = self._module(self._images[: smallest_bucket(self._buckets, count)])
            return {name: outputs[name][:count].contiguous().numpy() for name in self._names}


def _engine(
    module: nn.Module,
    input_size: tuple[int, int],
    device: torch.device,
    max_batch_size: int,
    names: tuple[str, ...],
) -> CudaGraphs | _OnProcessor:
    """What runs the module. On a GPU cuDNN tries its algorithms for every size of batch."""
    if device.type == "cpu":
        return _OnProcessor(module, input_size, max_batch_size, names)
    torch.backends.cudnn.benchmark = True
    try:
        return CudaGraphs(
            module,
            input_size=input_size,
            device=device,
            max_batch_size=max_batch_size,
            names=names,
        )
    finally:
        torch.backends.cudnn.benchmark = False


class _InPrecision(nn.Module):
    """A network that computes in `dtype`, between pictures and predictions in float32.

    Channels-last, as the pictures come and as tensor cores take them. Heads give float32 by
    themselves, before activations and distances of hundreds of pixels.
    """

    def __init__(self, network: RTMDet, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = network.config
        # An overload that torch's annotations lack.
        self.network = cast("RTMDet", network.to(dtype).to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
        self._dtype = dtype

    def forward(self, images: Tensor) -> HeadOutputs:
        """float32 [n, 3, h, w] -> predictions per level."""
        inputs = images.to(self._dtype).contiguous(memory_format=torch.channels_last)
        return cast("HeadOutputs", self.network(inputs))


def _in_precision(
    network: RTMDet, manifest: VersionManifest, device: torch.device, precision: Precision
) -> tuple[nn.Module, str, str]:
    """The serving graph on the device in the precision that is set, or the best; which, and why.

    On a GPU auto takes float16: of the two that tensor cores run equally fast it resolves eight
    times as finely as bfloat16 (10 bits of mantissa against 7), and norms keep activations far
    below the 65,504 that it reaches to. A trial shows whether they do in this model; if not,
    bfloat16 reaches as far as float32. On a processor auto is float32.
    """
    there = _precisions_of(device)

    def graph_in(name: str) -> nn.Module:
        inner = _InPrecision(copy.deepcopy(network), _DTYPES[name])
        graph = ServingGraph(cast("RTMDet", inner), manifest.input_size, manifest.num_candidates)
        return graph.eval().to(device)

    if precision != "auto":
        if precision not in there:
            raise ValueError(
                f"precision {precision} is not available on this GPU; choose "
                f"{', '.join(there)} or auto"
            )
        return graph_in(precision), precision, f"{precision}: as set"
    exact = graph_in(EXACT)
    if device.type == "cpu":
        return exact, EXACT, f"{EXACT}: on a processor torch gains nothing by another"
    seen = _outputs_for_trial(exact, manifest, device)
    reason = f"{EXACT}: this GPU has nothing faster"
    for name in ("f16", "bf16"):
        if name in there:
            graph = graph_in(name)
            verdict = verdict_by_picture(seen, _outputs_for_trial(graph, manifest, device), name)
            if verdict.accepted:
                return graph, name, verdict.reason
            logger.warning("%s", verdict.reason)
            reason = verdict.reason
    return exact, EXACT, reason


@torch.inference_mode()
def _outputs_for_trial(
    module: nn.Module, manifest: VersionManifest, device: torch.device
) -> Outputs:
    picture = torch.from_numpy(trial_picture(*manifest.input_size)).to(device)
    outputs = cast("dict[str, Tensor]", module(picture))
    return {name: outputs[name].cpu().numpy() for name in _outputs_of(manifest)}


def _precisions_of(device: torch.device) -> tuple[str, ...]:
    """Those that the device computes in without detours."""
    if device.type == "cpu":
        return tuple(_DTYPES)
    capability = torch.cuda.get_device_capability(device)
    return tuple(name for name in _DTYPES if capability >= _SINCE_CAPABILITY.get(name, (0, 0)))


def _device_of(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(name)


def _outputs_of(manifest: VersionManifest) -> tuple[str, ...]:
    """The graph's own outputs, in the order in which they are listed."""
    return tuple(name for name in GRAPH_OUTPUTS if name in TASK_OUTPUTS[manifest.task])


def _require_known(names: tuple[str, ...], manifest: VersionManifest) -> None:
    dense = ["logits", "boxes", *(["kernels"] if manifest.task == "instance" else [])]
    known = {*_outputs_of(manifest), *(_DENSE_PREFIX + name for name in dense)}
    if missing := sorted(set(names) - known):
        raise ValueError(f"the graph has no tensor named {', '.join(missing)}")


def _version() -> str:
    return torch.__version__.partition("+")[0]
