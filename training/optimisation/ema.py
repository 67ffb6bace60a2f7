"""The moving average of the weights: what is evaluated, published and kept of a run."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

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
    gamma = max(config.gamma * config.momentum * horizon, 1.0)
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
        self._repeats = _repeats(network) if config.repeat_shared else {}
        self._followed: nn.Module | None = None
        self._floats: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._integers: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights of `network` (unwrapped), once after every step.

        Its tensors are looked up once, so that they have to stay the same ones, as for optimizers.
        """
        if network is not self._followed:
            self._follow(network)
        weight = weight_of_new(self.updates, self._config)
        for repeats, pairs in self._floats.items():
            ours, theirs = zip(*pairs, strict=True)
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                ours, theirs, 1 - (1 - weight) ** repeats
            )
        if self._integers:
            ours, theirs = zip(*self._integers, strict=True)
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                ours, theirs
            )
        self.updates += 1

    def _follow(self, network: nn.Module) -> None:
        """Pair our tensors with those of `network`, by how often a step averages them."""
        floats: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self._integers = []
        theirs = network.state_dict(keep_vars=True)
        for name, ours in self.network.state_dict().items():
            if ours.is_floating_point():
                floats[self._repeats.get(name, 1)].append((ours, theirs[name]))
            else:
                self._integers.append((ours, theirs[name]))
        self._floats, self._followed = dict(floats), network

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
