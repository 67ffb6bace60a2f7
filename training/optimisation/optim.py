"""AdamW with the published parameter groups, and how its rate follows the batch."""

from torch import nn
from torch.optim import AdamW

from training.config import OptimizerConfig


def scaled_lr(config: OptimizerConfig, total_batch: int) -> float:
    """The base rate for steps on `total_batch` images: all ranks, all accumulated passes."""
    return config.lr * total_batch / config.lr_batch_size


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, *, lr: float, fused: bool = False
) -> AdamW:
    """AdamW over all parameters, first those that decay, then norms and biases, which do not.

    Both groups are in the order of `network.named_parameters()`, which names a tensor once however
    often it is used. `fused` is for networks on a GPU.
    """
    decayed, not_decayed = parameter_groups(network)
    return AdamW(
        [
            {"params": list(decayed.values()), "weight_decay": config.weight_decay},
            {"params": list(not_decayed.values()), "weight_decay": 0.0},
        ],
        lr=lr,
        betas=config.betas,
        fused=fused,
    )


def parameter_groups(
    network: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Parameters by name: those that decay, and those that do not.

    What has one dimension does not: the scales and shifts of norms, and all biases.
    """
    parameters = dict(network.named_parameters())
    decayed = {name: value for name, value in parameters.items() if value.ndim > 1}
    not_decayed = {name: value for name, value in parameters.items() if value.ndim <= 1}
    return decayed, not_decayed
