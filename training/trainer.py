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
from training.evaluations import Evaluations
from training.learner import Learner, Standing
from training.optimisation.optim import scaled_lr
from training.optimisation.schedule import learning_rate
from training.position import Pace
from training.run.journal import Journal
from training.run.nonfinite import find_nonfinite, nonfinite_error
from training.saving import Saver
from training.step import StepResult
from training.workloads.base import Batch, Workload

#: So long at a time the first rank waits for an evaluation before all look for requests to stop.
_LOOK_EVERY_S = 0.2


class TooManyUnreadable(RuntimeError):
    """More images could not be read than the settings allow to replace."""


def pace_of(config: TrainConfig, workload: Workload) -> Pace:
    """How this run's epochs are cut into steps."""
    return Pace(
        config.schedule.epochs, workload.batches_per_epoch, config.optimizer.accumulation_steps
    )


class Trainer:
    """Trains from where the learner stands to the end.

    The best and the last weights are written for export, batches that broke the loss are kept.
    `evaluations` are the first rank's, where there is anything to evaluate on.
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
        evaluations: Evaluations | None,
    ) -> None:
        self._config = config
        self._workload = workload
        self._learner = learner
        self._ranks = ranks
        self._saver = saver
        self._journal = journal
        self._evaluations = evaluations
        self._stop_requested: Callable[[], bool] = lambda: False
        self._pace = pace_of(config, workload)
        self._is_first_step = True
        self._base_lr = scaled_lr(config.optimizer, config.total_batch_size(ranks.num_ranks))

    @property
    def standing(self) -> Standing:
        """How far the run is."""
        return self._learner.standing

    def run(self, stop_requested: Callable[[], bool] = lambda: False) -> bool:
        """Train until the end, or until any rank is asked to stop; whether the end was reached.

        Raises NonFiniteLoss, TooManyUnreadable, CheckpointFailed; what was saved stays.
        """
        self._stop_requested = stop_requested
        if self._config.runtime.on_nonfinite == "rollback" and not self._saver.can_restore:
            # The first steps, too, need something to go back to.
            self._save()
        self._request_evaluation()
        while self.standing.position.epoch < self._config.schedule.epochs:
            if not self._train_epoch():
                return False
        self._save()
        self._saver.save_weights("last", self._learner)
        return self._await_evaluations()

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
                self._request_evaluation()
                if not self._between_steps():
                    return False
        if self._must_be_kept(standing.position.epoch):
            self._save()
        return True

    def _between_steps(self) -> bool:
        """Save when that is due or stopping was asked for, on any rank; whether to go on."""
        if self._evaluations is not None:
            self._evaluations.look(self.standing)
        due = self._saver.is_due(self.standing.position)
        stop, save = self._ranks.highest([self._stop_requested(), due])
        if stop or save:
            self._save()
        return not stop

    def _must_be_kept(self, epochs_done: int) -> bool:
        """Whether a checkpoint belongs here: with what is evaluated, and where stages switch."""
        switch = self._config.stage_index(epochs_done) != self._config.stage_index(epochs_done - 1)
        return switch or self._config.schedule.evaluates_after(epochs_done)

    def _save(self) -> None:
        if self._saver.save(self._learner):
            self._journal.saved(self.standing)
            if self._evaluations is not None:
                self._evaluations.forget_decided(self.standing)

    # ---------------------------------------------------------------------------------- evaluation

    def _request_evaluation(self) -> None:
        """Have the averaged weights evaluated, if that is due here; nobody waits for it."""
        standing, network = self.standing, self._learner.average.network
        if not self._evaluation_is_due():
            return
        # Batch norms that are not synchronised have other statistics on every rank; those of the
        # first are evaluated and saved.
        self._ranks.share_from_first(network.buffers())
        standing.requested = standing.position.epoch
        self._ranks.on_first(lambda: self._on_first.request(standing, network))

    def _evaluation_is_due(self) -> bool:
        position = self.standing.position
        return (
            self._workload.can_be_evaluated
            and position.batch == 0
            and self.standing.requested < position.epoch
            and self._config.schedule.evaluates_after(position.epoch)
        )

    def _await_evaluations(self) -> bool:
        """Wait for those that are outstanding; whether there are none left."""
        evaluations = self._evaluations
        if evaluations is not None and evaluations.outstanding:
            self._journal.waits_for_evaluations(evaluations.outstanding)
        while True:
            if evaluations is not None:
                evaluations.look(self.standing)
            stop, is_outstanding = self._ranks.highest(
                [self._stop_requested(), bool(evaluations and evaluations.outstanding)]
            )
            if stop or not is_outstanding:
                break
            if evaluations is not None:
                evaluations.wait(_LOOK_EVERY_S)
        # With the last result: a run that is made longer knows its best.
        self._save()
        return not is_outstanding

    @property
    def _on_first(self) -> Evaluations:
        assert self._evaluations is not None
        return self._evaluations

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
        if self._evaluations is not None:
            self._evaluations.return_to(restored)
        standing.num_rollbacks += 1
        place = f" (the batch is in {kept})" if kept else ""
        self._journal.rolled_back(standing, restored, f"{found.summary}{place}")
