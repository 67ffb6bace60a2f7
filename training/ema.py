"""The moving average of the weights: what is evaluated, published and kept of a run."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from model.weights import name_table
from training.config import EMAConfig


def weight_of_new(updates: int, config: EMAConfig) -> float:
    """How much a new value counts after `updates` updates; the first is copied.

    (1 - momentum) exp(-(1 + t) / gamma) + momentum, as published: the average is short at first
    and grows to a horizon of 1 / momentum steps.
    """
    if updates == 0:
        return 1.0
    return (1 - config.momentum) * math.exp(-(1 + updates) / config.gamma) + config.momentum


def proportioned(config: EMAConfig, *, total_steps: int) -> EMAConfig:
    """`config` for a run of `total_steps`: its own, or by `horizon_share` where that is set."""
    if config.horizon_share is None:
        return config
    horizon = max(config.horizon_share * total_steps, 1.0)
    gamma = config.gamma * config.momentum * horizon
    return replace(config, momentum=1 / horizon, gamma=gamma)


class WeightAverage:
    """The average of a network's weights and float buffers over the steps of a run.

    `network` is a copy in evaluation mode that holds the average; `updates` counts the updates.
    Integer buffers (how many batches a norm has seen) are the latest ones: an average would mean
    nothing, and nothing reads them.
    """

    def __init__(self, network: nn.Module, config: EMAConfig, *, total_steps: int) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.updates = 0
        self._config = proportioned(config, total_steps=total_steps)
        repeats = _repeats(network) if config.repeat_shared else {}
        self._floats: dict[int, list[str]] = defaultdict(list)
        self._integers: list[str] = []
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self._floats[repeats.get(name, 1)].append(name)
            else:
                self._integers.append(name)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights of `network` (unwrapped), once after every step."""
        weight = weight_of_new(self.updates, self._config)
        ours, theirs = self.network.state_dict(), network.state_dict()
        for repeats, names in self._floats.items():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                [ours[name] for name in names],
                [theirs[name] for name in names],
                1 - (1 - weight) ** repeats,
            )
        if self._integers:
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                [ours[name] for name in self._integers], [theirs[name] for name in self._integers]
            )
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: `updates`, and `weights` by name (the tensors themselves)."""
        return {"updates": self.updates, "weights": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave, to the bit."""
        self.network.load_state_dict(state["weights"])
        self.updates = int(state["updates"])


def _repeats(network: nn.Module) -> dict[str, int]:
    """How often the published code averages each tensor in a step: once for each of its names."""
    return {name: len(published) for name, published in name_table(network).items()}
