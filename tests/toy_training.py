"""A training that takes milliseconds: a small classifier on made-up pictures, with real parts.

What a batch holds follows from its epoch and number, as with the real loaders.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from model.durable import copy_into_place
from training.checkpoint import CheckpointStore
from training.config import TrainConfig
from training.distributed import Ranks
from training.evaluation.average_precision import Metrics
from training.evaluation.beside.base import Event, Failed, Finished, SideEvaluator, Underway
from training.evaluation.beside.snapshots import Outcome, Snapshot, Snapshots
from training.evaluations import Evaluations
from training.learner import Learner
from training.optimisation.ema import WeightAverage
from training.optimisation.optim import build_optimizer, scaled_lr
from training.recipes import recipe
from training.run.display import SilentDisplay
from training.run.journal import Journal
from training.run.progress import ProgressLog
from training.saving import Saver
from training.step import PictureNetwork, Stepper
from training.trainer import Trainer, pace_of
from training.workloads.base import BatchLosses

ONE_RANK = Ranks(0, 1, torch.device("cpu"))


@dataclass(frozen=True, eq=False)
class ToyBatch:
    images: Tensor
    labels: Tensor
    problems: tuple[str, ...] = ()

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "ToyBatch":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


class ToyWorkload:
    """Fulfils `training.workloads.base.Workload`.

    `spoil` may replace a batch, given epoch and number; `scores` are what evaluations give, by the
    epochs that are done: those of the last stage, mostly.
    """

    primary_metric = "score"

    def __init__(
        self,
        batches_per_epoch: int = 5,
        *,
        spoil: Callable[[int, int, ToyBatch], ToyBatch] = lambda _epoch, _number, batch: batch,
        scores: Mapping[int, float] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
        self.batches_per_epoch = batches_per_epoch
        self.served: list[tuple[int, int]] = []
        self.can_be_evaluated = scores is not None
        self.scores = scores or {}
        self._spoil = spoil

    def batches(self, epoch: int, first_batch: int) -> Iterator[ToyBatch]:
        for number in range(first_batch, self.batches_per_epoch):
            self.served.append((epoch, number))
            rng = np.random.default_rng((epoch, number))
            batch = ToyBatch(
                torch.from_numpy(rng.integers(0, 256, (4, 8, 8, 3), np.uint8)),
                torch.from_numpy(rng.integers(0, 3, 4)),
            )
            yield self._spoil(epoch, number, batch)

    def losses(self, model: nn.Module, batch: ToyBatch) -> BatchLosses:
        loss = F.cross_entropy(model(batch.images), batch.labels)
        return BatchLosses(loss, {"loss_toy": loss})

    def tensors(self, batches: Sequence[ToyBatch]) -> Mapping[str, Tensor]:
        return {f"{number}/images": batch.images for number, batch in enumerate(batches)}

    def draw_sample(self, epoch: int) -> NDArray[np.uint8]:
        return np.zeros((8, 8, 3), np.uint8)

    def save(self, network: nn.Module, stem: Path, metrics: Mapping[str, float]) -> None:
        save_file(
            {name: value.contiguous() for name, value in network.state_dict().items()},
            stem.with_suffix(".safetensors"),
        )

    def publish(self, weights: Path, stem: Path, metrics: Mapping[str, float]) -> None:
        copy_into_place(weights.with_suffix(".safetensors"), stem.with_suffix(".safetensors"))

    def close(self) -> None:
        pass


class PlayedEvaluator:
    """Fulfils `SideEvaluator` without a process, with scores by epoch; None is a failure.

    It is done as soon as it is looked at, unless it `is_slow`: then when it is waited for.
    """

    def __init__(self, scores: Mapping[int, float | None], *, is_slow: bool = False) -> None:
        self.scores = scores
        self.is_slow = is_slow
        #: After which epochs evaluations began.
        self.begun: list[int] = []
        self._snapshot: Snapshot | None = None

    def begin(self, snapshot: Snapshot) -> None:
        assert self._snapshot is None
        self._snapshot = snapshot
        self.begun.append(snapshot.epochs)

    def poll(self) -> Event | None:
        if self._snapshot is None:
            return None
        if self.is_slow:
            return Underway(1, 2)
        snapshot, self._snapshot = self._snapshot, None
        score = self.scores[snapshot.epochs]
        if score is None:
            return Failed("img.jpg: truncated", died=False)
        snapshot.keep(Outcome(Metrics({"score": score}, {"cat": {"score": score}}, 2)))
        return Finished()

    def wait(self, seconds: float) -> None:
        self.is_slow = False

    def abandon(self) -> None:
        self._snapshot = None


def toy_config(
    *, epochs: int = 4, last_stage_epochs: int = 2, accumulation: int = 2
) -> TrainConfig:
    """A short schedule; checkpoints come at evaluations and when asked for."""
    config = recipe("rtmdet-nano")
    return replace(
        config,
        schedule=replace(
            config.schedule,
            epochs=epochs,
            last_stage_epochs=last_stage_epochs,
            warmup_steps=3,
            evaluate_every=100,
        ),
        optimizer=replace(
            config.optimizer, accumulation_steps=accumulation, lr=0.01, lr_batch_size=8
        ),
        data=replace(config.data, batch_size=4, max_unreadable=3),
        runtime=replace(config.runtime, log_every_steps=1),
    )


@dataclass
class StopAfter:
    """Asks to stop once it was asked so many times, once a step."""

    times: int

    def __call__(self) -> bool:
        self.times -= 1
        return self.times < 0


def toy_trainer(
    folder: Path,
    workload: ToyWorkload,
    config: TrainConfig,
    *,
    side: PlayedEvaluator | None = None,
) -> Trainer:
    """A trainer with everything real but its workload and the process beside it."""
    network, ranks, pace = workload.network, ONE_RANK, pace_of(config, workload)
    average = WeightAverage(network, config.ema, total_steps=pace.total_steps)
    optimizer = build_optimizer(network, config.optimizer, lr=scaled_lr(config.optimizer, 8))
    model = PictureNetwork(network, ranks.device, bf16=False)
    stepper = Stepper(
        workload, model, optimizer, ranks, max_grad_norm=config.optimizer.max_grad_norm
    )
    saver = Saver(
        CheckpointStore(folder / "checkpoints", 2),
        ranks,
        pace,
        workload,
        config.runtime,
        folder=folder,
    )
    log = ProgressLog(folder / "progress.jsonl")
    journal = Journal(config, pace, SilentDisplay(), log=log)
    trainer = Trainer(
        config,
        workload,
        Learner(network, optimizer, average, stepper),
        ranks,
        saver,
        journal=journal,
        evaluations=toy_evaluations(
            folder, workload, journal, side or PlayedEvaluator(workload.scores), config
        ),
    )
    # In a run the session closes it.
    weakref.finalize(trainer, log.close)
    return trainer


def toy_evaluations(
    folder: Path,
    workload: ToyWorkload,
    journal: Journal,
    side: SideEvaluator,
    config: TrainConfig,
) -> Evaluations | None:
    """As the session has them."""
    if not workload.can_be_evaluated:
        return None
    return Evaluations(
        side,
        workload,
        journal,
        Snapshots(folder / "evaluations"),
        folder=folder,
        max_waiting=config.evaluation.max_waiting,
    )


def resume(trainer: Trainer) -> None:
    """As the session does it."""
    trainer._learner.standing = trainer._saver.restore(trainer._learner)
    if trainer._evaluations is not None:
        trainer._evaluations.take_up(trainer.standing)
