"""Which runtime: the one that is set, or the best that this machine has; and why.

`look` finds out what there is, `choose` decides. torch takes seconds to import, so it is asked only
where the kernel shows an NVIDIA GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from service.runtime.nvidia_driver import gpu_names

RuntimeName = Literal["openvino", "torch", "fake"]

_FILES = Path("/")
_WINDOWS_CUDA = "usr/lib/wsl/lib/libcuda.so.1"

#: What the runtime of torch needs beside the service; the others need one package of their name.
TORCH_MODULES = ("torch", "onnx")

_HOW_TO_GET = {
    "openvino": "pip install '.[serve]'",
    "torch": "pip install '.[torch]'",
}


class RuntimeUnavailable(ValueError):
    """The runtime that is asked for is not there; the message says what to install."""


@dataclass(frozen=True)
class CudaDevice:
    """What torch says of the GPU: its name ("NVIDIA H200, torch 2.13.0 with CUDA 13.0"), or why it
    cannot be used."""

    name: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Machine:
    """What there is to run models with.

    `gpu` is an NVIDIA GPU that the kernel shows, by its name; `cuda` what torch makes of it, where
    both are there and torch is asked.
    """

    has_openvino: bool
    has_torch: bool
    gpu: str | None
    cuda: CudaDevice = CudaDevice()


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime and why, for people."""

    name: RuntimeName
    reason: str
    on_gpu: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def choose(wanted: Literal["auto"] | RuntimeName, machine: Machine) -> RuntimeChoice:
    """The runtime to use. Raises RuntimeUnavailable where it is not installed, or none is."""
    if wanted == "fake":
        return RuntimeChoice("fake", "as set; no network is run")
    if wanted == "auto":
        return _best(machine)
    there = machine.has_openvino if wanted == "openvino" else machine.has_torch
    if not there:
        raise RuntimeUnavailable(
            f"the runtime '{wanted}' is not installed: {_HOW_TO_GET[wanted]}, or choose auto"
        )
    if wanted == "torch":
        on_gpu = machine.cuda.name is not None
        return RuntimeChoice("torch", f"as set; {_torch_device(machine)}", on_gpu)
    return RuntimeChoice("openvino", "as set")


def _best(machine: Machine) -> RuntimeChoice:
    """A GPU where it can be used, else OpenVINO, else torch on the processor."""
    if machine.gpu is None:
        why_no_gpu = "no NVIDIA GPU on this machine"
    elif not machine.has_torch:
        why_no_gpu = (
            f"{machine.gpu} is there, but torch, which would use it, is not installed: "
            f"{_HOW_TO_GET['torch']}"
        )
    elif machine.cuda.name is not None:
        return RuntimeChoice("torch", machine.cuda.name, on_gpu=True)
    else:
        why_no_gpu = f"{machine.gpu} is there, but {machine.cuda.problem}"
    if machine.has_openvino:
        return RuntimeChoice("openvino", why_no_gpu)
    if machine.has_torch:
        return RuntimeChoice(
            "torch",
            f"{why_no_gpu}; OpenVINO, which is faster on a processor, is not installed: "
            f"{_HOW_TO_GET['openvino']}",
        )
    raise RuntimeUnavailable(f"no runtime is installed: {_HOW_TO_GET['openvino']}")


def _torch_device(machine: Machine) -> str:
    """What torch will run on."""
    if machine.cuda.name is not None:
        return machine.cuda.name
    if machine.cuda.problem is not None:
        return f"on the processor, for {machine.cuda.problem}"
    return "on the processor, for there is no NVIDIA GPU"


def look(
    wanted: Literal["auto"] | RuntimeName = "auto",
    *,
    root: Path = _FILES,
    is_installed: Callable[[str], bool] = lambda name: find_spec(name) is not None,
    ask_torch: Callable[[], CudaDevice] | None = None,
) -> Machine:
    """What this machine has that concerns the runtime `wanted`; `root` is where `dev` lies."""
    gpu = _gpu_name(root)
    has_torch = all(map(is_installed, TORCH_MODULES))
    cuda = CudaDevice()
    if gpu is not None and has_torch and wanted in ("auto", "torch"):
        cuda = (ask_torch or _ask_torch)()
    return Machine(is_installed("openvino"), has_torch, gpu, cuda)


def _gpu_name(root: Path) -> str | None:
    """The first NVIDIA GPU that the kernel shows to this process; None where there is none.

    A container may see the driver without being given a device, so the device decides.
    """
    # Under Windows' Linux there is one device for every maker, and the driver's own library.
    through_windows = (root / "dev/dxg").exists() and (root / _WINDOWS_CUDA).exists()
    if not through_windows and not any((root / "dev").glob("nvidia[0-9]*")):
        return None
    return next(iter(gpu_names(root)), "an NVIDIA GPU")


def _ask_torch() -> CudaDevice:
    from service.runtime.torch_cuda import cuda_device

    return cuda_device()
