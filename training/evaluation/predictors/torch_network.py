"""Networks in torch, as they are trained, without export; one is a `GraphRuntime`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import Task
from model.decoding import Decoder
from model.graph import Normalise, ServingGraph
from model.heads.outputs import HeadOutputs
from model.manifest import TASK_OUTPUTS
from model.postprocess import PUBLISHED_SETTINGS, PostprocessSettings
from training.evaluation.predictors.graph import DENSE_OUTPUTS, GraphPredictor
from training.networks import in_evaluation_mode

Precision = Literal["float32", "bf16"]


class TorchNetwork:
    """A detector on a device, with the outputs of the graph that would be exported.

    With `num_candidates` it selects so many, as that graph does; else it gives what these are
    selected from. The network may learn between calls, and its mode stays as it was.
    """

    #: One call is in the network while what another gave is looked at.
    concurrency = 2

    #: More gain nothing.
    max_batch_size = 256

    def __init__(
        self,
        network: nn.Module,
        *,
        task: Task,
        input_size: tuple[int, int],
        device: torch.device,
        precision: Precision = "float32",
        num_candidates: int | None = None,
    ) -> None:
        self._network = network
        self._device = device
        self._precision: Precision = precision
        in_float32 = _InFloat32(network, device, bf16=precision == "bf16")
        if num_candidates is None:
            self.output_names = DENSE_OUTPUTS[task]
            self._graph: nn.Module = _DenseGraph(in_float32, input_size)
        else:
            self.output_names = tuple(sorted(TASK_OUTPUTS[task]))
            self._graph = ServingGraph(in_float32, input_size, num_candidates)  # type: ignore[arg-type]
        self._graph.to(device)
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        """Version, device and precision."""
        return torch_description(self._device, self._precision)

    @torch.inference_mode()
    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """uint8 BGR [n, h, w, 3] -> float32 outputs by name, and `labels` int32.

        Raises ValueError where the GPU has too little memory for so many.
        """
        with self._lock, in_evaluation_mode(self._network), fitting_in_memory(len(images)):
            outputs = self._graph(torch.from_numpy(images).to(self._device))
            return {name: outputs[name].cpu().numpy() for name in self.output_names}

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def fitting_in_memory(num_images: int) -> Iterator[None]:
    """Say in one line, as ValueError, that a GPU has too little memory for so many images."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"the GPU has too little memory for {num_images} images at once; take fewer, by a "
            "smaller batch size"
        ) from error


def torch_description(device: torch.device, precision: Precision) -> str:
    """For people: "torch 2.9.1 CPU float32"."""
    name = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"torch {torch.__version__.partition('+')[0]} {name} {precision}"


def torch_predictor(
    network: nn.Module,
    *,
    task: Task,
    input_size: tuple[int, int],
    device: torch.device,
    precision: Precision = "float32",
    settings: PostprocessSettings | None = None,
) -> GraphPredictor:
    """Runs `network` up to candidates, selected as for the published figures, or by `settings`."""
    runtime = TorchNetwork(
        network, task=task, input_size=input_size, device=device, precision=precision
    )
    return GraphPredictor(
        runtime, task=task, input_size=input_size, settings=settings or PUBLISHED_SETTINGS[task]
    )


class _InFloat32(nn.Module):
    """A network whose outputs are float32, in whatever precision it computes."""

    def __init__(self, network: nn.Module, device: torch.device, *, bf16: bool) -> None:
        super().__init__()
        self.network = network
        self._device_type = device.type
        self._bf16 = bf16

    @property
    def config(self) -> Any:
        """The network's."""
        return self.network.config

    def forward(self, images: Tensor) -> HeadOutputs:
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            outputs = self.network(images)
        features = outputs.mask_features
        return HeadOutputs(
            logits=_float(outputs.logits),
            distances=_float(outputs.distances),
            angles=_float(outputs.angles),
            kernels=_float(outputs.kernels),
            mask_features=None if features is None else features.float(),
        )


class _DenseGraph(nn.Module):
    """What an exported graph computes, up to its selection."""

    def __init__(self, network: nn.Module, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.network = network
        self.decode = Decoder(input_size)

    def forward(self, images: Tensor) -> dict[str, Tensor | None]:
        dense = self.decode(self.network(self.normalise(images)))
        return {
            "dense_logits": dense.logits,
            "dense_boxes": dense.boxes,
            "dense_kernels": dense.kernels,
            "mask_features": dense.mask_features,
        }


def _float(levels: list[Tensor]) -> list[Tensor]:
    return [tensor.float() for tensor in levels]
