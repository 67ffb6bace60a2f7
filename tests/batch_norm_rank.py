"""One of two processes that normalise one batch together; `test_batch_norm` compares them."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.optimisation.batch_norm import synchronise_batch_norms

#: Images of each rank; they differ, as the last batch of an evaluation would.
SHARES = (3, 1)

CHANNELS = 4


class Network(nn.Module):
    """Two norms around a convolution, the second with the momentum of the instance head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        norms = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS, momentum=0.19)
        for norm in norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        self.norms = nn.ModuleList(norms)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.norms
        return second(self.conv(first(images)).sigmoid())


def batch() -> tuple[Tensor, Tensor]:
    """The whole batch, far from zero, and what to weigh the outputs with."""
    torch.manual_seed(1)
    shape = (sum(SHARES), CHANNELS, 5, 6)
    return torch.randn(shape) * 3 + 20, torch.randn(shape)


def trained(network: nn.Module, images: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics after two passes in training mode."""
    images = images.clone().requires_grad_()
    network(images)
    output = network(images)
    (output * weights).sum().backward()
    gradients = {f"grad {name}": value.grad for name, value in network.named_parameters()}
    found = {"output": output.detach(), "images": images.grad, **gradients}
    return network.state_dict() | {
        name: value for name, value in found.items() if value is not None
    }


def run(rank: int, folder: str) -> None:
    """Train on this rank's share and save what came of it as `rank.pt`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SHARES)
    )
    images, weights = (tensor.split(SHARES)[rank] for tensor in batch())
    network = synchronise_batch_norms(Network().train())
    torch.save(trained(network, images, weights), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
