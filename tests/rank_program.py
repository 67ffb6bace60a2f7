"""A rank that trains nothing: gloo, a loader with workers, a checkpoint when it is stopped.

python -m tests.rank_program FOLDER [--save-s 10]      prints "ready" once every rank is at work
"""

from training.interruption import EXIT_INTERRUPTED, StopRequest, die_with_parent

# Before torch, which takes seconds to import.
die_with_parent()

import argparse  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from training.checkpoint import CheckpointStore, TrainingState  # noqa: E402
from training.data.sampling.epochs import EpochLoader  # noqa: E402
from training.distributed import Ranks, join_ranks  # noqa: E402
from training.state.optimizer_state import OptimizerState  # noqa: E402
from training.state.random_state import gather_random_states  # noqa: E402


@dataclass(frozen=True)
class Numbers:
    """A batch."""

    values: Tensor

    def pin_memory(self) -> "Numbers":
        return Numbers(self.values.pin_memory())


class Plans:
    """An epoch that outlasts every test."""

    batches_per_epoch = 1_000_000

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[list[int]]:
        for batch in range(first_batch, self.batches_per_epoch):
            yield [batch]


def render(plans: list[int]) -> Numbers:
    time.sleep(0.01)
    return Numbers(torch.tensor(plans))


def save(ranks: Ranks, folder: Path, step: int, save_s: float) -> None:
    random = gather_random_states(ranks.control)

    def write() -> None:
        time.sleep(save_s)
        state = TrainingState(
            step=step, epoch=0, batch=step, weights={"w": torch.full((3,), float(step))},
            average={}, average_updates=0, optimizer=OptimizerState({}, []), random=random,
        )  # fmt: skip
        CheckpointStore(folder, keep=1).save(state)

    ranks.on_first(write)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save-s", type=float, default=0.0)
    arguments = parser.parse_args()
    with StopRequest() as stop, ExitStack() as stack:
        ranks = join_ranks("cpu")
        stack.callback(ranks.leave)
        loader = EpochLoader(Plans(), render, num_workers=2)
        stack.callback(loader.close)
        for step, _ in enumerate(loader.epoch(0), start=1):
            (stop_requested,) = ranks.highest([stop.requested])
            if stop_requested:
                save(ranks, arguments.folder, step, arguments.save_s)
                break
            if step == 1:
                # Every rank has a batch: `highest` waits for all.
                sys.stdout.write("ready\n")
                sys.stdout.flush()
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
