"""One rank of two that train with batch norms of their own; `test_ddp` compares what is evaluated.

python -m tests.trainer_rank FOLDER

writes FOLDER/average-RANK.safetensors, and FOLDER/best.safetensors, which was evaluated
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.toy_training import (
    PlayedEvaluator,
    ToyBatch,
    ToyWorkload,
    toy_config,
    toy_evaluations,
)
from training.checkpoint import CheckpointStore
from training.distributed import join_ranks
from training.run.display import SilentDisplay
from training.run.journal import Journal
from training.saving import Saver
from training.session import _learner
from training.trainer import Trainer, pace_of


class Evaluated(ToyWorkload):
    """Each rank has other pictures."""

    def __init__(self, rank: int) -> None:
        super().__init__(batches_per_epoch=2, spoil=self._of_rank, scores={1: 0.5})
        self._rank = rank

    def _of_rank(self, epoch: int, number: int, batch: ToyBatch) -> ToyBatch:
        return replace(batch, images=batch.images // (self._rank + 1))


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    ranks = join_ranks("cpu")
    config = toy_config(epochs=1, last_stage_epochs=0, accumulation=1)
    runtime = replace(config.runtime, sync_batch_norm=False, channels_last=False)
    config = replace(config, runtime=runtime)
    workload = Evaluated(ranks.rank)
    pace = pace_of(config, workload)
    store = CheckpointStore(folder / "checkpoints", 1)
    learner = _learner(config, workload, pace, ranks)  # type: ignore[arg-type]
    journal = Journal(config, pace, SilentDisplay())
    # The other rank trains on while the first evaluates, and both end together.
    side = PlayedEvaluator(workload.scores, is_slow=True)
    trainer = Trainer(
        config,
        workload,
        learner,
        ranks,
        Saver(store, ranks, pace, workload, config.runtime, folder=folder),
        journal=journal,
        evaluations=toy_evaluations(folder, workload, journal, side, config)
        if ranks.is_first
        else None,
    )
    assert trainer.run()
    save_file(learner.average.network.state_dict(), folder / f"average-{ranks.rank}.safetensors")
    ranks.leave()


if __name__ == "__main__":
    main()
