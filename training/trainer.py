"""The training loop: steps, epochs, evaluation, checkpoints, and stopping at any moment.

Everything that decides what the next step does is a function of the standing and the weights,
all of which a checkpoint holds, so that a run that was stopped and resumed goes the same way to
the bit. All ranks run this code; what only one may do (write, print) is done by the first.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from itertools import chain, islice
from typing import cast

from training.config import TrainConfig
from training.distributed import Ranks
from training.learner import Learner, Standing
from training.optimisation.optim import scaled_lr
from training.optimisation.schedule import learning_rate
from training.position import Pace
from training.run.journal import Journal
from training.run.nonfinite import find_nonfinite, nonfinite_error
from training.saving import Saver
from training.step import StepResult
from training.workloads.base import Batch, Workload


class TooManyUnreadable(RuntimeError):
    """More images could not be read than the settings allow to replace."""


def pace_of(config: TrainConfig, workload: Workload) -> Pace:
    """How this run's epochs are cut into steps."""
    return Pace(
        config.schedule.epochs, workload.batches_per_epoch, config.optimizer.accumulation_steps
    )


class Trainer:
    """Trains from where the learner stands to the end, or until `stop_requested` on any rank.

    The best and the last weights are written for export, batches that broke the loss are kept.
    """

    def __init__(
        self,
        config: TrainConfig,
        workload: Workload,
        learner: Learner,
        ranks: Ranks,
        saver: Saver,
        *,
        journal: Journal,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._config = config
        self._workload = workload
        self._learner = learner
        self._ranks = ranks
        self._saver = saver
        self._journal = journal
        self._stop_requested = stop_requested
        self._pace = pace_of(config, workload)
        self._is_first_step = True
        self._base_lr = scaled_lr(config.optimizer, config.total_batch_size(ranks.num_ranks))

    @property
    def standing(self) -> Standing:
        """How far the run is."""
        return self._learner.standing

    def run(self) -> bool:
        """Train; returns whether the end was reached, which is not so after a request to stop.

        Raises NonFiniteLoss, TooManyUnreadable, CheckpointFailed; what was saved stays.
        """
        if self._config.runtime.on_nonfinite == "rollback" and not self._saver.can_restore:
            # The first steps, too, need something to go back to.
            self._save()
        while True:
            if self._evaluation_is_due() and not self._evaluate():
                return False
            if self.standing.position.epoch >= self._config.schedule.epochs:
                break
            if not self._train_epoch():
                return False
        # With the last evaluation: a run that is made longer knows its best.
        self._save()
        self._saver.save_weights("last", self._learner, {})
        return True

    # ------------------------------------------------------------------------------------ epochs

    def _train_epoch(self) -> bool:
        """The rest of an epoch; whether its end was reached."""
        standing = self.standing
        epoch = standing.position.epoch
        self._journal.epoch_begins(standing)
        self._learner.network.train()
        # Closed when left early, which ends the prefetching.
        batches = self._workload.batches(epoch, standing.position.batch)
        with closing(cast("Generator[Batch]", batches)):
            while standing.position.epoch == epoch:
                size = self._pace.batches_of_next_step(standing.position)
                group = list(islice(batches, size))
                if self._is_first_step:
                    self._is_first_step = False
                    self._journal.first_batch_is_here()
                self._step(group)
                if not self._between_steps():
                    return False
        if self._must_be_kept(standing.position.epoch):
            self._save()
        return True

    def _between_steps(self) -> bool:
        """Save when that is due or stopping was asked for, on any rank; whether to go on."""
        due = self._saver.is_due(self.standing.position)
        stop, save = self._ranks.highest([self._stop_requested(), due])
        if stop or save:
            self._save()
        return not stop

    def _must_be_kept(self, epochs_done: int) -> bool:
        """Whether a checkpoint belongs here: evaluation may take long, the switch is a landmark."""
        switch = self._config.stage_index(epochs_done) != self._config.stage_index(epochs_done - 1)
        return switch or self._config.schedule.evaluates_after(epochs_done)

    def _save(self) -> None:
        if self._saver.save(self._learner):
            self._journal.saved(self.standing)

    # ---------------------------------------------------------------------------------- evaluation

    def _evaluation_is_due(self) -> bool:
        position = self.standing.position
        return (
            self._workload.can_be_evaluated
            and position.batch == 0
            and self.standing.evaluated < position.epoch
            and self._config.schedule.evaluates_after(position.epoch)
        )

    def _evaluate(self) -> bool:
        """Evaluate the averaged weights; whether that was done, and not stopped in the middle."""
        standing, network = self.standing, self._learner.average.network
        # Batch norms that are not synchronised have other statistics on every rank; those of the
        # first are saved.
        self._ranks.share_from_first(network.buffers())
        self._journal.evaluation_begins(standing)
        metrics = self._workload.evaluate(network, lambda _done, _total: not self._stop_requested())
        if metrics is None:
            return False
        standing.evaluated = standing.position.epoch
        value = metrics.get(self._workload.primary_metric)
        is_best = value is not None and (standing.best is None or value > standing.best)
        if is_best:
            standing.best = value
            self._saver.save_weights("best", self._learner, metrics)
        self._journal.evaluated(standing, metrics, is_best=is_best)
        return True

    # --------------------------------------------------------------------------------------- steps

    def _step(self, batches: Sequence[Batch]) -> None:
        pace, learner = self._pace, self._learner
        standing = learner.standing
        epoch = standing.position.epoch
        self._report_unreadable(batches)
        on_device = [batch.to(self._ranks.device, non_blocking=True) for batch in batches]
        result = learner.stepper.gradients(on_device)
        lr = self.learning_rate(pace.step(standing.position))
        if result.is_finite:
            learner.stepper.move(lr, result.grad_norm)
            learner.average.update(learner.network)
        else:
            self._handle_nonfinite(on_device, result)
        standing.position = pace.after_next_step(standing.position)
        self._journal.stepped(
            standing,
            result,
            lr=lr,
            num_images=sum(len(batch.images) for batch in batches) * self._ranks.num_ranks,
            epoch=epoch,
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return learning_rate(
            step,
            base_lr=self._base_lr,
            schedule=self._config.schedule,
            steps_per_epoch=self._pace.steps_per_epoch,
        )

    def _report_unreadable(self, batches: Sequence[Batch]) -> None:
        ours = [problem for batch in batches for problem in batch.problems]
        (most,) = self._ranks.highest([len(ours)])
        if not most:
            return
        known = self.standing.unreadable
        # The same image turns up in every epoch: it is one, however often it is replaced.
        for problem in dict.fromkeys(chain(*self._ranks.gather(ours))):
            if problem not in known:
                known.append(problem)
                self._journal.problem(self.standing, f"unreadable and replaced: {problem}")
        limit = self._config.data.max_unreadable
        if len(known) > limit:
            raise TooManyUnreadable(
                f"{len(known)} images could not be read, and data.max_unreadable is {limit}; "
                f"the last one: {known[-1]}"
            )

    def _handle_nonfinite(self, batches: Sequence[Batch], result: StepResult) -> None:
        """Keep the batch for inspection, then stop, or go back and leave the batch out."""
        learner, standing = self._learner, self._learner.standing
        found = find_nonfinite(
            learner.network,
            result.losses,
            step=self._pace.step(standing.position),
            epoch=standing.position.epoch,
            rank=self._ranks.rank,
        )
        kept = None
        with suppress(OSError):  # a full disk is not what is wrong here
            kept = self._saver.save_batch(found, batches)
        learner.stepper.forget()
        runtime = self._config.runtime
        if runtime.on_nonfinite == "stop" or standing.num_rollbacks >= runtime.max_rollbacks:
            raise nonfinite_error(found, kept)
        restored = self._saver.restore(learner)
        standing.num_rollbacks += 1
        place = f" (the batch is in {kept})" if kept else ""
        self._journal.rolled_back(standing, restored, f"{found.summary}{place}")
