"""The optimizer's state by the names of the parameters, as tensors and JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class ForeignOptimizerState(ValueError):
    """The state of an optimizer over other parameters."""


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """`tensors`: "parameter/entry" -> value, step counters included.

    `groups`: for each group its hyper-parameters, and under "names" its parameters, in order.
    """

    tensors: Mapping[str, Tensor]
    groups: Sequence[Mapping[str, Any]]


def optimizer_state(optimizer: Optimizer, network: nn.Module) -> OptimizerState:
    """The state of `optimizer`, whose parameters are all of `network`; tensors are not copied."""
    names: dict[Tensor, str] = {p: name for name, p in network.named_parameters()}
    tensors = {
        f"{names[parameter]}/{entry}": torch.as_tensor(value)
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
    }
    groups = [
        {
            "names": [names[parameter] for parameter in group["params"]],
            **{key: value for key, value in group.items() if key != "params"},
        }
        for group in optimizer.param_groups
    ]
    return OptimizerState(tensors=tensors, groups=groups)


def restore_optimizer(optimizer: Optimizer, network: nn.Module, state: OptimizerState) -> None:
    """Put the tensors of `state` into `optimizer`, which must have the same groups of parameters.

    The hyper-parameters stay those that it was built with: they are the run's, which may have been
    changed since, and say which kernels suit its device. Raises ForeignOptimizerState, which names
    the first difference.
    """
    current = optimizer_state(optimizer, network)
    ours = [list(group["names"]) for group in current.groups]
    theirs = [list(group["names"]) for group in state.groups]
    if ours != theirs:
        raise ForeignOptimizerState(_difference(ours, theirs))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {name: i for i, name in enumerate(name for names in ours for name in names)}
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in index:
            raise ForeignOptimizerState(f"the saved optimizer has state for '{name}', ours has not")
        place = index[name]
        entries.setdefault(place, {})[entry] = _like(parameters[place], value)
    groups = [
        {
            **{key: value for key, value in group.items() if key != "params"},
            "params": [index[name] for name in names],
        }
        for group, names in zip(optimizer.param_groups, ours, strict=True)
    ]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy with the strides of its parameter: a step over other strides may round otherwise."""
    if value.shape != parameter.shape:
        return value.clone()  # a counter
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _difference(ours: list[list[str]], theirs: list[list[str]]) -> str:
    if len(ours) != len(theirs):
        return f"the saved optimizer has {len(theirs)} groups of parameters, ours {len(ours)}"
    for group, (here, there) in enumerate(zip(ours, theirs, strict=True)):
        for name in there:
            if name not in here:
                return f"group {group} of the saved optimizer has '{name}', ours has not"
        for name in here:
            if name not in there:
                return f"group {group} of our optimizer has '{name}', the saved one has not"
    return "the parameters of the saved optimizer stand in another order"
