"""When a run is saved, what goes into a checkpoint, and how a run is put back from one."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

from training.checkpoint import CheckpointStore, DamagedCheckpoint, TrainingState
from training.config import RuntimeConfig
from training.distributed import Ranks
from training.learner import Learner, Standing
from training.position import Pace, Position
from training.run.nonfinite import NonFiniteStep, save_nonfinite
from training.state.optimizer_state import optimizer_state, restore_optimizer
from training.state.random_state import RandomState, gather_random_states, restore_random_state
from training.workloads.base import Batch, Workload


class Saver:
    """Saves and restores for all ranks; the first one writes what all have in common.

    A checkpoint is due so many steps or seconds after the last one, by `runtime`. `folder` is the
    run's: weights for export lie there, batches that broke the loss under `problems/`.
    """

    def __init__(
        self,
        store: CheckpointStore,
        ranks: Ranks,
        pace: Pace,
        workload: Workload,
        runtime: RuntimeConfig,
        *,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ranks = ranks
        self._pace = pace
        self._workload = workload
        self._every_steps = runtime.checkpoint_every_steps
        self._every_s = runtime.checkpoint_every_s
        self._folder = folder
        self._clock = clock
        #: How many ranks there were when the checkpoint that was restored was written.
        self.saved_by = ranks.num_ranks
        self._last_step = 0
        self._last_save_s = clock()
        # What the latest checkpoint holds, as far as this run wrote or read it.
        self._saved: Standing | None = None

    def is_due(self, position: Position) -> bool:
        """Whether enough was done since the last checkpoint that it should not be lost."""
        waited = self._clock() - self._last_save_s
        steps = self._pace.step(position) - self._last_step
        return steps >= self._every_steps or (steps > 0 and waited >= self._every_s)

    @property
    def can_restore(self) -> bool:
        """Whether there is anything to go back to."""
        return self._saved is not None

    def save(self, learner: Learner) -> bool:
        """Write a checkpoint, unless the latest holds just that; returns whether it was written.

        Every rank calls it; raises CheckpointFailed on all of them.
        """
        # What evaluations gave is known to the first rank alone, and all gather their states.
        (changed,) = self._ranks.highest([self._saved != learner.standing])
        if not changed:
            return False
        random = gather_random_states(self._ranks.control)
        self._ranks.on_first(lambda: self._write(learner, random))
        self._saved = deepcopy(learner.standing)
        self._last_step = self._pace.step(learner.standing.position)
        self._last_save_s = self._clock()
        return True

    def _write(self, learner: Learner, random: Sequence[RandomState]) -> None:
        pace, standing = self._pace, learner.standing
        state = TrainingState(
            step=pace.step(standing.position),
            epoch=standing.position.epoch,
            batch=standing.position.batch,
            weights=learner.network.state_dict(),
            average=learner.average.network.state_dict(),
            average_updates=learner.average.updates,
            optimizer=optimizer_state(learner.optimizer, learner.network),
            random=random,
            best=standing.best,
            rollbacks=standing.num_rollbacks,
            extra={
                "requested": standing.requested,
                "evaluated": standing.evaluated,
                "unreadable": standing.unreadable,
                "pace": [pace.epochs, pace.batches_per_epoch, pace.accumulation_steps],
            },
        )
        self._store.save(state)

    def restore(self, learner: Learner) -> Standing:
        """Put the latest checkpoint into `learner`; returns where the run stood then.

        Raises DamagedCheckpoint where there is none, and ForeignOptimizerState.
        """
        state = self._store.load_latest()
        if state is None:
            raise DamagedCheckpoint(
                f"nothing was saved yet in {self._store.folder}: start again without --resume"
            )
        learner.network.load_state_dict(dict(state.weights))
        learner.average.load_state_dict(
            {"weights": dict(state.average), "updates": state.average_updates}
        )
        restore_optimizer(learner.optimizer, learner.network, state.optimizer)
        self.saved_by = len(state.random)
        if self.saved_by == self._ranks.num_ranks:
            restore_random_state(state.random[self._ranks.rank])
        position = self._pace.transferred(
            Position(state.epoch, state.batch), Pace(*state.extra["pace"])
        )
        self._last_step = self._pace.step(position)
        standing = Standing(
            position=position,
            requested=state.extra["requested"],
            evaluated=state.extra["evaluated"],
            best=state.best,
            num_rollbacks=state.rollbacks,
            unreadable=list(state.extra["unreadable"]),
        )
        self._saved = deepcopy(standing)
        return standing

    def save_weights(self, name: str, learner: Learner) -> None:
        """Write the averaged weights for export, as `name` in the run's folder."""
        network = learner.average.network
        self._ranks.on_first(lambda: self._workload.save(network, self._folder / name, {}))

    def save_batch(self, found: NonFiniteStep, batches: Sequence[Batch]) -> Path:
        """Keep this rank's batches of a step that was not finite; returns where."""
        return save_nonfinite(self._folder / "problems", found, self._workload.tensors(batches))
