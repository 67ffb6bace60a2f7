"""How much memory a step takes, estimated without taking it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Weights, their gradients, the two moments of AdamW, and the average.
_COPIES_OF_WEIGHTS = 5


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each rank's device. Losses and the allocator's reserve come on top."""

    weights_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both."""
        return self.weights_bytes + self.activations_bytes


def estimate_memory(
    network: nn.Module, input_size: tuple[int, int], batch_size: int, *, bf16: bool
) -> MemoryEstimate:
    """Estimate a training step of a network that was built on the meta device.

    Counts what the forward pass of one image keeps for the backward pass. With `bf16`
    half of it: convolutions and activations, which are nearly all, keep half-precision.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage.nbytes()
        storages.append(storage)
        return tensor

    storages: list[object] = []  # alive, so that no two have one id
    weights = sum(each.numel() * each.element_size() for each in network.parameters())
    network.train()
    # Two images: batch norm of a single 1 x 1 cell is an error.
    images = torch.empty(2, 3, *input_size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = network(images)
    owned = {id(each.untyped_storage()) for each in network.parameters()}
    activations = sum(size for key, size in kept.items() if key not in owned) / 2
    del outputs
    share = 0.5 if bf16 else 1.0
    return MemoryEstimate(_COPIES_OF_WEIGHTS * weights, int(activations * batch_size * share))
