"""One step of the optimizer: some batches forwards and backwards, the gradient checked, a move."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from model.graph import Normalise
from training.distributed import Ranks
from training.workloads.base import Batch, Workload


class PictureNetwork(nn.Module):
    """A network that takes pictures as they were decoded, and runs at the chosen precision."""

    def __init__(self, network: nn.Module, device: torch.device, *, bf16: bool) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.network = network
        self.device_type = device.type
        self.bf16 = bf16

    def forward(self, images: Tensor) -> object:
        """uint8 [n, h, w, 3] BGR -> what the network gives."""
        # Pictures are stored pixel by pixel, so that the permuted view is channels-last already.
        pixels = self.normalise(images)
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.network(pixels)


@dataclass(frozen=True, eq=False)
class StepResult:
    """The mean losses of all ranks and batches, by name, and the norm of the gradient."""

    losses: dict[str, float]
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether this step may be taken."""
        values = torch.tensor([*self.losses.values(), self.grad_norm])
        return bool(values.isfinite().all())


class Stepper:
    """Computes gradients and moves the weights; `model` is the network, perhaps wrapped."""

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        optimizer: Optimizer,
        ranks: Ranks,
        *,
        max_grad_norm: float | None,
    ) -> None:
        self._workload = workload
        self._model = model
        self._optimizer = optimizer
        self._ranks = ranks
        self._max_grad_norm = max_grad_norm

    def gradients(self, batches: Sequence[Batch]) -> StepResult:
        """Compute the gradient of the mean loss of `batches`; the weights stay as they are.

        Each batch is normalised by its own annotated instances, as if it were a step of its own.
        """
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            # Ranks exchange gradients once a step, in the last backward pass.
            with self._unsynchronised(last=number == len(batches) - 1):
                losses = self._workload.losses(self._model, batch)
                (losses.total / len(batches)).backward()
            for name, value in {"loss": losses.total, **losses.parts}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        mean = self._ranks.sum(torch.stack(list(sums.values())))
        mean = mean / (len(batches) * self._ranks.num_ranks)
        norm = get_total_norm(self._gradients(), foreach=True)
        return StepResult(dict(zip(sums, mean.tolist(), strict=True)), float(norm))

    def move(self, lr: float, grad_norm: float) -> None:
        """Move the weights along the gradient, which is then forgotten."""
        if self._max_grad_norm is not None:
            clip_grads_with_norm_(
                self._parameters(), self._max_grad_norm, torch.tensor(grad_norm), foreach=True
            )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def _unsynchronised(self, *, last: bool) -> AbstractContextManager[object]:
        if isinstance(self._model, DistributedDataParallel) and not last:
            return self._model.no_sync()
        return nullcontext()

    def _parameters(self) -> list[Tensor]:
        return [each for group in self._optimizer.param_groups for each in group["params"]]

    def _gradients(self) -> list[Tensor]:
        return [each.grad for each in self._parameters() if each.grad is not None]
