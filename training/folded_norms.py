"""Batch norms that came without their statistics, folded into convolutions: give them new ones.

Exported graphs and some published files hold such norms, which shift and do nothing else. In
training they would divide by the statistics of each batch, and the network would lose what it has
learned. So the statistics are estimated from training images, and scale and shift are set so that
the network computes what it did.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from training.distributed import Ranks
from training.step import PictureNetwork
from training.workloads.base import Batch, Workload

#: How many training images the statistics are estimated from, at least.
NUM_IMAGES = 256


def restore_folded_norms(workload: Workload, ranks: Ranks, *, batch_size: int) -> list[str]:
    """Estimate the statistics of the folded norms of the workload's network, if it has any.

    All ranks must call it. `batch_size` is images per rank and batch. Returns lines that say what
    was done, for people.
    """
    norms = folded_norms(workload.network)
    if not norms:
        return []
    num_batches = -(-NUM_IMAGES // (batch_size * ranks.num_ranks))
    num_batches = min(num_batches, workload.batches_per_epoch)
    batches = islice(workload.batches(0, 0), num_batches)
    network = workload.network.to(ranks.device)
    estimate_statistics(network, norms, (batch.to(ranks.device) for batch in batches), ranks)
    num_images = num_batches * batch_size * ranks.num_ranks
    return [
        f"batch norms without statistics, as files for serving have them: those of {len(norms)} "
        f"norms are estimated from {num_images} training images"
    ]


def folded_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The norms whose statistics do nothing: mean 0 and variance 1 - eps.

    Those of a fresh network have the variance 1.
    """
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and module.running_var is not None
        and not module.running_mean.any()
        and bool(((module.running_var - (1 - module.eps)).abs() < module.eps / 10).all())
    ]


@torch.no_grad()
def estimate_statistics(
    network: nn.Module, norms: list[nn.BatchNorm2d], batches: Iterable[Batch], ranks: Ranks
) -> None:
    """Give `norms` the statistics of what reaches them; the network computes what it did.

    In evaluation mode, so that every norm sees what the folded network gave it.
    """
    sums = {norm: _Sums.zero(norm) for norm in norms}
    model = PictureNetwork(network, ranks.device, bf16=False).to(ranks.device)
    was_training = network.training
    model.eval()
    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_pre_hook(partial(_watch, sums[norm])).remove)
        for batch in batches:
            model(batch.images)
    network.train(was_training)
    for norm in norms:
        _set_statistics(norm, *sums[norm].over(ranks))


@dataclass(eq=False)
class _Sums:
    """Sums over values of each channel, float64 [c]."""

    count: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def zero(cls, norm: nn.BatchNorm2d) -> "_Sums":
        zeros = torch.zeros_like(norm.weight, dtype=torch.float64)
        return cls(zeros, zeros.clone(), zeros.clone())

    def over(self, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Mean and variance [c] over the images of all ranks."""
        count, first, second = ranks.sum(torch.stack((self.count, self.first, self.second)))
        mean = first / count
        return mean, (second / count - mean.square()).clamp(min=0)


def _watch(sums: _Sums, _norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    variance, mean = torch.var_mean(inputs[0].double(), dim=(0, 2, 3), correction=0)
    count = inputs[0].numel() // mean.numel()
    sums.count += count
    sums.first += mean * count
    sums.second += (variance + mean.square()) * count


def _set_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """w x + b  ->  (w s) (x - mean) / s + (b + w mean), with s the standard deviation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight = norm.weight.double()
    norm.bias.copy_(norm.bias.double() + weight * mean)
    norm.weight.copy_(weight * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
