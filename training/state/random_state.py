"""The random states of a process as tensors of fixed sizes: Python's, numpy's, torch's."""

import random
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

#: Generator -> tensor; see `random_state`.
RandomState = dict[str, Tensor]


def random_state() -> RandomState:
    """This process's states: `python`, `numpy` (the legacy generator), `torch` and, with a GPU,
    `cuda` (the current device's). Their sizes do not depend on what was drawn.
    """
    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    assert (version, legacy["bit_generator"]) == (3, "MT19937")
    twister = legacy["state"]
    state = {
        "python": torch.tensor(words),
        "python_gauss": _optional(gauss),
        "numpy": torch.tensor([*map(int, twister["key"]), twister["pos"]]),
        "numpy_gauss": _optional(legacy["gauss"] if legacy["has_gauss"] else None),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Go on drawing where `random_state` was taken."""
    words = tuple(state["python"].tolist())
    random.setstate((3, words, _value(state["python_gauss"])))
    *keys, position = state["numpy"].tolist()
    gauss = _value(state["numpy_gauss"])
    np.random.set_state(
        ("MT19937", np.array(keys, np.uint32), position, int(gauss is not None), gauss or 0.0)
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def gather_random_states(group: dist.ProcessGroup | None = None) -> list[RandomState]:
    """The state of every rank, by rank, on every rank.

    `group` is one of CPU tensors (gloo). Without distribution, this process's alone.
    """
    ours = random_state()
    if not dist.is_initialized():
        return [ours]
    # The same names and sizes everywhere give the same number of bytes everywhere.
    packed = torch.frombuffer(bytearray(save(ours)), dtype=torch.uint8)
    gathered = [torch.empty_like(packed) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, packed, group)
    return [load(state.numpy().tobytes()) for state in gathered]


def _optional(value: float | None) -> Tensor:
    return torch.tensor([float(value is not None), value or 0.0], dtype=torch.float64)


def _value(optional: Tensor) -> float | None:
    present, value = optional.tolist()
    return value if present else None
