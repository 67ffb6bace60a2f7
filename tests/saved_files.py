"""Files as torch writes them, for tests that read them: tensors of many kinds, and calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def weights() -> dict[str, Tensor]:
    """Tensors of every kind that checkpoints have."""
    torch.manual_seed(0)
    base = torch.randn(3, 4)
    return {
        "plain": base,
        "transposed": base.T,
        "second view": base[1:, ::2],
        "parameter": nn.Parameter(torch.randn(2)),
        "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "double": torch.randn(5, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }


def write(content: Any, path: Path, *, layout: str = "zip", protocol: int = 2) -> Path:
    torch.save(
        content, path, _use_new_zipfile_serialization=layout == "zip", pickle_protocol=protocol
    )
    return path


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name
