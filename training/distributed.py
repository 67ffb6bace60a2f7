"""The ranks of a run: who this process is among them, and how they agree.

One process per GPU, or several on a CPU; `torchrun` (or `training.run.launch`) tells each who it is
by the environment. A process that was started alone is a group of one, and nothing is initialised.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")

#: Rank 0 reads the data and writes checkpoints while the others wait.
_CONTROL_TIMEOUT = timedelta(hours=2)

#: A rank that is lost shows within this time where gradients are exchanged.
_GRADIENT_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, eq=False)
class Ranks:
    """This process among `num_ranks`; `control` is a group for flags and values, on the CPU."""

    rank: int
    num_ranks: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, without gradient; on its own device."""
        if self.num_ranks == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def highest(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over all ranks."""
        if self.control is None:
            return list(values)
        flags = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.control)
        return flags.tolist()

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, on every rank, in the order of the ranks."""
        if self.control is None:
            return [value]
        values: list[Value | None] = [None] * self.num_ranks
        dist.all_gather_object(values, value, group=self.control)
        return values  # type: ignore[return-value]

    def from_first(self, value: Value) -> Value:
        """What the first rank has, on every rank."""
        if self.control is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def share_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank's tensors, on its own device, the values of the first one's."""
        if self.num_ranks > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def on_first(self, work: Callable[[], Value]) -> Value:
        """Let the first rank work; every rank gets its value, or raises its error."""
        result: tuple[Value | None, Exception | None] = (None, None)
        if self.is_first:
            try:
                result = (work(), None)
            except Exception as error:
                if self.control is None:
                    raise
                result = (None, error)
        value, failure = self.from_first(result)
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]

    def leave(self) -> None:
        """End the group. Without waiting for the others: one may be gone."""
        if self.control is not None:
            dist.destroy_process_group()


def started_by_launcher() -> bool:
    """Whether `torchrun` or `training.run.launch` started this process as one of several ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def num_ranks_here() -> int:
    """How many ranks share this machine: some of all, where there are several machines."""
    if not started_by_launcher():
        return 1
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["WORLD_SIZE"])


def join_ranks(device: str | None) -> Ranks:
    """Become one of the ranks. `device` None: the GPU of this rank where there is one.

    Raises ValueError for a device that is not there.
    """
    rank, num_ranks = 0, 1
    if started_by_launcher():
        rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    chosen = choose_device(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if num_ranks == 1:
        return Ranks(rank, num_ranks, chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_GRADIENT_TIMEOUT)
    control = dist.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT)
    assert isinstance(control, dist.ProcessGroup)
    return Ranks(rank, num_ranks, chosen, control)


def choose_device(
    device: str | None, *, local_rank: int, setting: str = "runtime.device"
) -> torch.device:
    """The device of this rank: as asked for by `setting`, else its own GPU, else the CPU.

    Raises ValueError for a device that is not there.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda") and not device.startswith("cuda:"):
        raise ValueError(f"{setting} '{device}': it is cpu, cuda, or cuda:N")
    if device == "cpu":
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    index = int(device.partition(":")[2] or local_rank) if device != "cuda" else local_rank
    if index >= num_gpus:
        raise ValueError(
            f"{setting} '{device}': process {local_rank} needs GPU {index}, and {num_gpus} "
            f"can be seen; start fewer processes, or --set {setting}=cpu"
        )
    return torch.device("cuda", index)
