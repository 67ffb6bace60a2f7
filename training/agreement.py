"""What all ranks must see alike, so that none leaves while another waits for it."""

from collections.abc import Sequence

import torch
import torch.distributed as dist


def agree(flags: Sequence[bool], group: dist.ProcessGroup | None = None) -> tuple[bool, ...]:
    """Flag by flag, whether it is set on any rank; every rank calls this at the same point.

    `group` is one of CPU tensors (gloo): no GPU has to wait. Without distribution, `flags`.
    """
    if not dist.is_initialized():
        return tuple(flags)
    together = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(together, dist.ReduceOp.MAX, group)
    return tuple(map(bool, together.tolist()))


def agree_to_stop(requested: bool, group: dist.ProcessGroup | None = None) -> bool:
    """Whether any rank has been asked to stop."""
    return agree([requested], group)[0]
