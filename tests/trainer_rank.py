"""One rank of two that train with batch norms of their own; `test_ddp` compares what they evaluate.

python -m tests.trainer_rank FOLDER        writes FOLDER/evaluated-RANK.safetensors
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.toy_training import ToyBatch, ToyWorkload, toy_config
from training.checkpoint import CheckpointStore
from training.distributed import join_ranks
from training.run.display import SilentDisplay
from training.run.journal import Journal
from training.saving import Saver
from training.session import _learner
from training.trainer import Trainer, pace_of
from training.workloads.base import Watch


class Evaluated(ToyWorkload):
    """Each rank has other pictures, and keeps what it evaluates."""

    def __init__(self, rank: int, folder: Path) -> None:
        super().__init__(batches_per_epoch=2, spoil=self._of_rank)
        self.can_be_evaluated = True
        self._rank = rank
        self._folder = folder

    def _of_rank(self, epoch: int, number: int, batch: ToyBatch) -> ToyBatch:
        return replace(batch, images=batch.images // (self._rank + 1))

    def evaluate(self, network: nn.Module, watch: Watch) -> dict[str, float]:
        save_file(network.state_dict(), self._folder / f"evaluated-{self._rank}.safetensors")
        return {}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    ranks = join_ranks("cpu")
    config = toy_config(epochs=1, last_stage_epochs=0, accumulation=1)
    runtime = replace(config.runtime, sync_batch_norm=False, channels_last=False)
    config = replace(config, runtime=runtime)
    workload = Evaluated(ranks.rank, folder)
    pace = pace_of(config, workload)
    store = CheckpointStore(folder / "checkpoints", 1)
    trainer = Trainer(
        config,
        workload,
        _learner(config, workload, pace, ranks),  # type: ignore[arg-type]
        ranks,
        Saver(store, ranks, pace, workload, config.runtime, folder=folder),
        journal=Journal(config, pace, SilentDisplay()),
        stop_requested=lambda: False,
    )
    assert trainer.run()
    ranks.leave()


if __name__ == "__main__":
    main()
