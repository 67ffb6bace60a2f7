"""NaN and Inf in a step: noticed before the weights are touched, and the batch kept to look at.

problems/step-00001234-rank0/  batch.safetensors, problem.json
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsFloat

import torch
from safetensors.torch import save
from torch import Tensor, nn

from training.targets import DetectionBatch

#: So many names stand in a line; all of them in `problem.json`.
_MAX_NAMED = 3


class NonFiniteLoss(RuntimeError):
    """The training has diverged: a step gave NaN or Inf."""


@dataclass(frozen=True, kw_only=True)
class NonFiniteStep:
    """What was not finite. `gradients` and `weights` are names of parameters and buffers."""

    step: int
    epoch: int
    rank: int
    losses: Mapping[str, float]
    gradients: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line: where, and what."""
        found = [f"{name} is {value}" for name, value in self.losses.items() if not _finite(value)]
        if self.weights:
            found.append(f"weights before the step: {_listed(self.weights)}")
        if self.gradients:
            found.append(f"gradients: {_listed(self.gradients)}")
        what = "; ".join(found) or "on another rank"
        return f"not finite in step {self.step} (epoch {self.epoch + 1}): {what}"


def find_nonfinite(
    network: nn.Module, losses: Mapping[str, SupportsFloat], *, step: int, epoch: int, rank: int = 0
) -> NonFiniteStep:
    """Look at everything, after `backward` and once it is known that something is wrong."""
    return NonFiniteStep(
        step=step,
        epoch=epoch,
        rank=rank,
        losses={name: float(value) for name, value in losses.items()},
        gradients=tuple(
            name
            for name, parameter in network.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ),
        weights=tuple(
            name for name, value in network.state_dict().items() if not value.isfinite().all()
        ),
    )


def save_nonfinite(folder: Path, found: NonFiniteStep, batch: Mapping[str, Tensor]) -> Path:
    """Save the batch and what was found in `folder`; returns the new folder.

    An older one of the same step and rank is replaced. Raises OSError on a full disk.
    """
    place = folder / f"step-{found.step:08d}-rank{found.rank}"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in batch.items()}
    # Its own way to write files fails with an error that is no OSError.
    (place / "batch.safetensors").write_bytes(save(tensors))
    content = {
        "step": found.step,
        "epoch": found.epoch,
        "rank": found.rank,
        # As text, for JSON has no NaN.
        "losses": {name: str(value) for name, value in found.losses.items()},
        "gradients": found.gradients,
        "weights": found.weights,
    }
    (place / "problem.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return place


def batch_tensors(batch: DetectionBatch) -> dict[str, Tensor]:
    """The tensors of a batch by name, as `save_nonfinite` takes them; `counts` is int64 [n]."""
    targets = batch.targets
    tensors = {
        "images": batch.images,
        "boxes": targets.boxes,
        "labels": targets.labels,
        "counts": torch.tensor(targets.counts, dtype=torch.int64),
        "centres": targets.centres,
        "masks": targets.masks,
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def nonfinite_error(found: NonFiniteStep, saved: Path | None) -> NonFiniteLoss:
    """The error that ends a run: what happened, where the batch is, what to try."""
    place = f"the batch is in {saved}" if saved else "the batch could not be saved"
    return NonFiniteLoss(
        f"{found.summary}; {place}. Go on with --resume --set runtime.on_nonfinite=rollback, or "
        "start again with a lower optimizer.lr or runtime.precision=float32"
    )


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _listed(names: tuple[str, ...]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
