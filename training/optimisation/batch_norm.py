"""Batch norms whose statistics are those of the whole batch, over all ranks.

torch's own works on GPUs alone; the one here is for processes on CPUs, which exchange sums. Names
in the state are those of ordinary batch norms.
"""

from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Network = TypeVar("Network", bound=nn.Module)


def synchronise_batch_norms(network: Network) -> Network:
    """`network` itself, its batch norms replaced by synchronised ones with the same tensors.

    On a GPU these are torch's; convert after moving the network to its device and before wrapping
    it. All ranks must run the network equally often.
    """
    if any(parameter.is_cuda for parameter in network.parameters()):
        return cast(Network, nn.SyncBatchNorm.convert_sync_batchnorm(network))
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _synchronised(child))
    return network


def _synchronised(norm: nn.BatchNorm2d) -> "SynchronisedBatchNorm2d":
    with torch.device("meta"):
        other = SynchronisedBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    # The very tensors, so that an optimizer that holds them goes on holding them.
    other._parameters, other._buffers = norm._parameters, norm._buffers
    return other.train(norm.training)


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm over the images of all ranks, which may have different numbers of them."""

    def forward(self, input: Tensor) -> Tensor:
        """[n, c, h, w] -> the same shape; in training every rank must call it."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        output, mean, variance, count = _NormaliseOverRanks.apply(
            input, self.weight, self.bias, self.eps
        )
        self._follow(mean, variance, count)
        return output

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, the variance by its unbiased estimate."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1


class _NormaliseOverRanks(torch.autograd.Function):
    """Batch normalisation (arXiv 1502.03167) with sums over all ranks, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, and in float64 mean [c], biased variance [c] and number of values per channel."""
        channels = features.shape[1]
        local_variance, local_mean = torch.var_mean(features.float(), dim=(0, 2, 3), correction=0)
        local_mean, local_variance = local_mean.double(), local_variance.double()
        # In float64, as the variance is a small difference of large sums.
        sums = torch.cat((local_mean, local_variance + local_mean.square(), torch.ones(1)))
        sums *= features.numel() // channels
        dist.all_reduce(sums)
        count = sums[-1]
        mean = sums[:channels] / count
        variance = (sums[channels:-1] / count - mean.square()).clamp(min=0)
        output = F.batch_norm(features, mean.float(), variance.float(), weight, bias, eps=eps)
        ctx.save_for_backward(features, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return output, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the features, and this rank's share of those of scale and shift."""
        features, weight, mean, inverse_std, count = ctx.saved_tensors
        grad = grads[0].float()
        normalised = (features.float() - _spread(mean)) * _spread(inverse_std)
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float64)
        grad_weight = (grad * normalised).sum((0, 2, 3), dtype=torch.float64)
        sums = torch.stack((grad_bias, grad_weight))
        dist.all_reduce(sums)
        mean_grad, mean_product = sums / count
        grad_features = grad - _spread(mean_grad) - normalised * _spread(mean_product)
        grad_features = grad_features * _spread(weight * inverse_std)
        return (
            grad_features.to(features.dtype),
            grad_weight.to(weight.dtype),
            grad_bias.to(weight.dtype),
            None,
        )


def _spread(per_channel: Tensor) -> Tensor:
    """[c] -> float32 [1, c, 1, 1]."""
    return per_channel.float().view(1, -1, 1, 1)
