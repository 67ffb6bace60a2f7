"""One run of training from its command to its end: the wiring of all parts, on every rank."""

import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import cv2
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.command_line import EXIT_FAILURE, EXIT_MISTAKE
from model.manifest import Source
from training.checkpoint import CheckpointStore
from training.config import TrainConfig
from training.config_json import to_json
from training.datasets import (
    ClassificationData,
    DetectionData,
    ReadingReport,
    fingerprints,
    index_data,
    indexed_fingerprints,
    open_data,
)
from training.distributed import Ranks, choose_device, join_ranks, num_ranks_here
from training.evaluation.beside.process import SideProcess, own_module
from training.evaluation.beside.snapshots import Snapshots
from training.evaluations import Evaluations
from training.folded_norms import restore_folded_norms
from training.initialisation import initialise
from training.interruption import EXIT_INTERRUPTED, StopRequest
from training.learner import Learner, Standing
from training.optimisation.batch_norm import synchronise_batch_norms
from training.optimisation.ema import WeightAverage
from training.optimisation.optim import build_optimizer, scaled_lr
from training.order import Order, command_of
from training.plan import lines, make_plan
from training.position import Pace
from training.run.display import Display, display_for
from training.run.journal import Journal
from training.run.progress import ProgressLog
from training.run.run_folder import RunFolder, RunPaths, RunRefused
from training.saving import Saver
from training.step import PictureNetwork, Stepper
from training.trainer import Trainer, pace_of
from training.workloads.base import Workload
from training.workloads.classification import ClassificationWorkload
from training.workloads.detection import DetectionWorkload


class LostRank(RuntimeError):
    """Another rank ended in the middle of the run."""


class _StoppedWhileReading(Exception):
    """Someone asked to stop before the data were read."""


def train(order: Order) -> int:
    """Train as one of the ranks; returns the exit code.

    Raises ValueError for the caller's mistakes, CheckpointFailed, NonFiniteLoss,
    TooManyUnreadable, WorkerLost and LostRank; what was saved before stays.
    """
    # From here on a signal is a request: what was begun is put in order.
    with StopRequest() as stop, ExitStack() as stack:
        ranks = join_ranks(order.config.runtime.device)
        stack.callback(ranks.leave)
        _set_up_torch(order.config)
        try:
            return _train(order, ranks, stop, stack)
        except _StoppedWhileReading:
            if ranks.is_first:
                _say(f"stopped by {stop.reason} before anything was trained")
            return EXIT_INTERRUPTED
        except Exception as error:
            lost = _lost_rank(error, ranks, RunPaths(order.out))
            if lost is None:
                raise
            raise lost from error


def _train(order: Order, ranks: Ranks, stop: StopRequest, stack: ExitStack) -> int:
    run = _open_run(order, ranks, stop, stack)
    try:
        data = open_data(order.config, RunPaths(order.out).index)
        session = _Session(order, ranks, run, data, stack)
    except BaseException:
        if run is not None and not order.resume:
            run.discard()
        raise
    return session.train(stop)


def _set_up_torch(config: TrainConfig) -> None:
    """Seeds and threads: ranks on one machine share its cores."""
    torch.manual_seed(config.runtime.seed)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(config.runtime.num_threads or max(cores // num_ranks_here(), 1))
    # Evaluation reads images on threads of its own.
    cv2.setNumThreads(0)
    torch.backends.cudnn.benchmark = True


def _open_run(order: Order, ranks: Ranks, stop: StopRequest, stack: ExitStack) -> RunFolder | None:
    """The run's folder, its data indexed; on the first rank. The others wait until it is done."""
    opened: list[RunFolder] = []

    def open_run() -> None:
        config = to_json(order.config)
        if order.resume:
            run = RunFolder.resume(order.out)
            stack.callback(run.close)
            _refuse_changed_data(order, run)
            run.change_config(config)
        else:
            run = RunFolder.create(order.out, config, {"data": str(order.data)})
            stack.callback(run.close)
        opened.append(run)
        _index(order, run, stop)

    ranks.on_first(open_run)
    return opened[0] if opened else None


def _refuse_changed_data(order: Order, run: RunFolder) -> None:
    """Refuse to go on with other files, before anything of the run is touched."""
    before = indexed_fingerprints(run.paths.index)
    now = fingerprints(order.config, order.data)
    if not any(run.paths.checkpoints.glob("step-*")):
        # A split that was not indexed yet when the run was killed is none that has changed.
        now = {split: now.get(split, "") for split in before}
    if before and now != before:
        raise RunRefused(
            f"{order.data} has changed since the run in {order.out} began: put it back, or start "
            f"a new run{_from_its_weights(order.out)}"
        )


def _from_its_weights(out: Path) -> str:
    for name in ("best.safetensors", "last.safetensors", "best.pth", "last.pth"):
        if (out / name).exists():
            return f" from its weights, --set {shlex.quote(f'model.init={out / name}')}"
    return ""


def _index(order: Order, run: RunFolder, stop: StopRequest) -> None:
    report = ReadingReport(_say)

    def watch(split: str, done: int, total: int) -> None:
        if stop.requested:
            raise _StoppedWhileReading
        report(split, done, total)

    try:
        index_data(order.config, order.data, run.paths.index, watch)
    except BaseException:
        if not order.resume:
            run.discard()
        raise


class _Session:
    """What is open while a run lasts.

    Whatever may be wrong with what the run was told shows while this is made.
    """

    def __init__(
        self,
        order: Order,
        ranks: Ranks,
        run: RunFolder | None,
        data: DetectionData | ClassificationData,
        stack: ExitStack,
    ) -> None:
        self._order = order
        self._config = order.config
        self._ranks = ranks
        self._run = run
        self._data = data
        self._stack = stack
        self._paths = RunPaths(order.out)
        self._workload = self._build_workload()
        stack.callback(self._workload.close)
        self._evaluation_device = self._choose_evaluation_device()
        self._pace = pace_of(self._config, self._workload)
        self._store = CheckpointStore(
            self._paths.checkpoints, self._config.runtime.keep_checkpoints, warn=_say
        )
        # A run that was killed before its first checkpoint begins anew.
        self._goes_on = order.resume and ranks.on_first(lambda: bool(self._store.saved()))
        self._said = self._head()
        self._learner = _learner(self._config, self._workload, self._pace, ranks)
        if run is not None and not self._goes_on:
            self._draw_samples()

    def train(self, stop: StopRequest) -> int:
        """Train to the end or until asked to stop; returns the exit code."""
        config, ranks, pace = self._config, self._ranks, self._pace
        display = display_for(rank=ranks.rank, total_steps=pace.total_steps)
        self._stack.callback(display.close)
        saver = Saver(
            self._store,
            ranks,
            pace,
            self._workload,
            config.runtime,
            folder=self._paths.folder,
        )
        if self._goes_on:
            self._learner.standing = saver.restore(self._learner)
            self._said += self._where_it_goes_on(saver.saved_by)
        journal = self._journal(display)
        journal.began(self._said, self._learner.standing, resumed=self._goes_on)
        evaluations = self._evaluations(journal)
        trainer = Trainer(
            config,
            self._workload,
            self._learner,
            ranks,
            saver,
            journal=journal,
            evaluations=evaluations,
        )
        return self._watched(trainer, journal, evaluations, stop)

    def _watched(
        self,
        trainer: Trainer,
        journal: Journal,
        evaluations: Evaluations | None,
        stop: StopRequest,
    ) -> int:
        """Run it, and leave word of how that ended."""
        try:
            # To get ready may have taken long, and so may the first step.
            (stopped,) = self._ranks.highest([stop.requested])
            finished = not stopped and trainer.run(lambda: stop.requested)
        except Exception as error:
            failure = _lost_rank(error, self._ranks, self._paths) or error
            exit_code = EXIT_MISTAKE if isinstance(failure, ValueError) else EXIT_FAILURE
            journal.failed(trainer.standing, str(failure), exit_code)
            raise
        if finished:
            failure = evaluations.failure if evaluations else None
            message, exit_code = self._farewell(trainer.standing, failure)
            journal.ended(trainer.standing, finished=True, message=message, exit_code=exit_code)
            return exit_code
        by = f" by {stop.reason}" if stop.reason else ""
        message = f"stopped{by}, everything is saved; go on: {self._resume_command()}"
        journal.ended(trainer.standing, finished=False, message=message, exit_code=EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED

    def _farewell(self, standing: Standing, failure: str | None) -> tuple[str, int]:
        """Which weights to take and what to do with them, and the exit code.

        Weights of which nobody knows whether they are any good are no success.
        """
        how, exit_code = "finished", 0
        if failure is not None and not standing.evaluated:
            how, exit_code = f"finished, but no evaluation worked ({failure})", EXIT_FAILURE
        which, value = "last", ""
        if standing.best is not None:
            which, value = "best", f" ({self._workload.primary_metric} {standing.best:.4f})"
        if isinstance(self._data, ClassificationData):
            told = f"--set={shlex.quote(f'model.init={self._paths.folder / which}.pth')}"
        else:
            told = shlex.join(["rtmdet", "export", f"{self._paths.folder / which}.safetensors"])
        return f"{how}; take the {which} weights{value}: {told}", exit_code

    def _choose_evaluation_device(self) -> torch.device:
        """Where is evaluated. Raises ValueError for a device that is not there."""
        device = self._config.evaluation.device
        if device is None:
            return self._ranks.device
        return choose_device(device, local_rank=0, setting="evaluation.device")

    def _evaluations(self, journal: Journal) -> Evaluations | None:
        """Where something can be evaluated, on the first rank; says what is still to be."""
        if self._run is None or not self._workload.can_be_evaluated:
            return None
        folder, paths = self._paths.folder, self._paths.evaluations
        command, environment = own_module(
            "training.evaluation.beside", str(folder.absolute()), str(self._evaluation_device)
        )
        side = SideProcess(command, log=paths / "process.log", environment=environment)
        self._stack.callback(side.close)
        evaluations = Evaluations(
            side,
            self._workload,
            journal,
            Snapshots(paths),
            folder=folder,
            max_waiting=self._config.evaluation.max_waiting,
        )
        evaluations.take_up(self._learner.standing)
        return evaluations

    def _resume_command(self) -> str:
        several = ["--num-processes", str(num_ranks_here())] if self._ranks.num_ranks > 1 else []
        told = ["--out", str(self._paths.folder), "--resume", *several]
        return shlex.join(["rtmdet", "train", *told])

    def _build_workload(self) -> Workload:
        if isinstance(self._data, ClassificationData):
            return ClassificationWorkload(
                self._config, self._data.train, self._data.val, self._ranks
            )
        source = Source(
            kind="trained",
            dataset=self._order.data.name,
            command=command_of(self._order),
            seed=self._config.runtime.seed,
        )
        return DetectionWorkload(
            self._config, self._data.train, self._data.val, self._ranks, source=source
        )

    def _head(self) -> list[str]:
        """What is said first; a fresh network gets its initial weights."""
        plan = make_plan(self._config, self._data.counts, self._ranks.num_ranks)
        if self._goes_on:
            plan = replace(plan, init="this run's checkpoint")
        said = [*lines(plan), *self._data.remarks, *self._order.remarks]
        if not self._goes_on:
            said += initialise(
                self._workload.network, self._config.model.init, classes=self._data.classes
            )
            said += restore_folded_norms(
                self._workload, self._ranks, batch_size=self._config.data.batch_size
            )
        return said

    def _where_it_goes_on(self, num_ranks_before: int) -> list[str]:
        position = self._learner.standing.position
        if position.epoch >= self._config.schedule.epochs:
            return [
                "it is finished already; --set schedule.epochs=N with a larger N makes it longer"
            ]
        step = self._pace.step(position)
        said = [f"goes on after step {step:,} of {self._pace.total_steps:,}"]
        if num_ranks_before != self._ranks.num_ranks:
            said.append(
                f"processes before: {num_ranks_before}, now: {self._ranks.num_ranks}; the "
                "images of a step and the learning rate change with that"
            )
        return said

    def _journal(self, display: Display) -> Journal:
        if self._run is None:
            return Journal(self._config, self._pace, display)
        # Imported here, for tensorboard is slow to import and other ranks draw nothing.
        from training.run.tensorboard_curves import TensorBoardCurves

        step = self._pace.step(self._learner.standing.position) if self._goes_on else None
        curves = TensorBoardCurves(self._paths.tensorboard, resumed_from=step)
        log = ProgressLog(self._paths.progress, curves=curves)
        self._stack.callback(log.close)
        return Journal(self._config, self._pace, display, log=log, run=self._run)

    def _draw_samples(self) -> None:
        """A picture of each stage's first batch, before anything is trained."""
        folder = self._paths.samples
        folder.mkdir(exist_ok=True)
        schedule = self._config.schedule
        epochs = {0, max(schedule.epochs - schedule.last_stage_epochs, 0)} & set(
            range(schedule.epochs)
        )
        for epoch in sorted(epochs):
            stage = self._config.stage_of(epoch).name
            cv2.imwrite(str(folder / f"{stage}.jpg"), self._workload.draw_sample(epoch))


def _lost_rank(error: Exception, ranks: Ranks, paths: RunPaths) -> LostRank | None:
    """What gloo and NCCL mean when they report a closed connection."""
    lost = isinstance(error, dist.DistError) or "gloo" in str(error)
    if ranks.num_ranks == 1 or not lost:
        return None
    return LostRank(
        f"another process of this run has ended (rank 0's errors are above, the others' in "
        f"{paths.ranks}); the last checkpoint is kept: go on with --resume"
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _learner(config: TrainConfig, workload: Workload, pace: Pace, ranks: Ranks) -> Learner:
    network = workload.network.to(ranks.device)
    if config.runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = WeightAverage(network, config.ema, total_steps=pace.total_steps)
    lr = scaled_lr(config.optimizer, config.total_batch_size(ranks.num_ranks))
    on_gpu = ranks.device.type == "cuda"
    if ranks.num_ranks > 1 and config.runtime.sync_batch_norm:
        network = synchronise_batch_norms(network)
    optimizer = build_optimizer(network, config.optimizer, lr=lr, fused=on_gpu)
    if config.runtime.compile:
        network.compile()
    model: nn.Module = PictureNetwork(
        network, ranks.device, bf16=config.runtime.precision == "bf16"
    ).to(ranks.device)
    if ranks.num_ranks > 1:
        model = DistributedDataParallel(
            model,
            device_ids=[ranks.device.index] if on_gpu else None,
            gradient_as_bucket_view=True,
        )
    stepper = Stepper(
        workload, model, optimizer, ranks, max_grad_norm=config.optimizer.max_grad_norm
    )
    return Learner(network, optimizer, average, stepper)
