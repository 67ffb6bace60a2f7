"""Which weights are evaluated when, and what becomes of the results; the first rank's business.

Evaluations take their turn in the order of epochs, so which weights are best depends neither on
how long they take nor on when the run is stopped. Nothing here waits for one.
"""

from pathlib import Path

from torch import nn

from training.evaluation.beside.base import Failed, Finished, SideEvaluator, Underway
from training.evaluation.beside.snapshots import Outcome, Snapshot, Snapshots
from training.learner import Standing
from training.run.journal import Journal
from training.workloads.base import Workload

#: An evaluating process that dies may have been unlucky once: killed for the memory of another.
_MAX_ATTEMPTS = 2


class Evaluations:
    """Has snapshots of the averaged weights evaluated, and keeps the best as `best` in `folder`.

    A snapshot stays until a checkpoint knows its result (`forget_decided`), so that a run that is
    killed and resumed misses none. `max_waiting`: where more wait, the oldest is left out.
    """

    def __init__(
        self,
        side: SideEvaluator,
        workload: Workload,
        journal: Journal,
        snapshots: Snapshots,
        *,
        folder: Path,
        max_waiting: int,
    ) -> None:
        self._side = side
        self._workload = workload
        self._journal = journal
        self._snapshots = snapshots
        self._folder = folder
        self._max_waiting = max_waiting
        self._waiting: list[Snapshot] = []
        self._current: Snapshot | None = None
        self._attempts = 0
        self._failed: Snapshot | None = None
        self._unreadable: set[str] = set()
        #: Why the last evaluation failed, if the last one did.
        self.failure: str | None = None

    @property
    def outstanding(self) -> list[int]:
        """After which epochs an evaluation is under way or waits."""
        current = [self._current] if self._current else []
        return [snapshot.epochs for snapshot in (*current, *self._waiting)]

    # ------------------------------------------------------------------------ what is evaluated

    def take_up(self, standing: Standing) -> None:
        """Go on with what a checkpoint leaves to be evaluated.

        Snapshots of what was trained after it belong to weights that there are no more.
        """
        self._snapshots.tidy()
        for snapshot in self._snapshots.all():
            if standing.evaluated < snapshot.epochs <= standing.requested:
                self._waiting.append(snapshot)
            else:
                self._snapshots.discard(snapshot)
        if self.outstanding:
            self._journal.evaluations_go_on(self.outstanding)
        self._go_on(standing)

    def request(self, standing: Standing, network: nn.Module) -> None:
        """Have `network` evaluated as it is now."""

        def save(weights: Path) -> None:
            self._workload.save(network, weights, {})

        epochs = standing.position.epoch
        try:
            self._waiting.append(self._snapshots.write(epochs, save))
        except OSError as error:
            # The checkpoint that follows says what is to be done about a full disk.
            self.failure = str(error)
            self._journal.evaluation_failed(standing, epochs, self.failure)
            return
        self._go_on(standing)
        while len(self._waiting) > self._max_waiting:
            self._leave_out(standing, self._waiting.pop(0))

    def return_to(self, restored: Standing) -> None:
        """Forget what was to be evaluated of weights that a rollback has thrown away."""
        if self._current is not None and self._current.epochs > restored.requested:
            self._side.abandon()
            self._current = None
        self._waiting = [each for each in self._waiting if each.epochs <= restored.requested]
        for snapshot in self._snapshots.all():
            if snapshot.epochs > restored.requested:
                self._snapshots.discard(snapshot)

    def _leave_out(self, standing: Standing, snapshot: Snapshot) -> None:
        self._snapshots.discard(snapshot)
        self._journal.problem(
            standing,
            f"not evaluated after epoch {snapshot.epochs}: evaluations take longer than the "
            f"epochs between them, and {self._max_waiting} wait already (evaluation.max_waiting); "
            "a larger schedule.evaluate_every asks for fewer",
        )

    # ------------------------------------------------------------------------- what comes of it

    def look(self, standing: Standing) -> None:
        """Take in what has come; to be called between any two steps."""
        if self._current is None:
            return
        match self._side.poll():
            case Underway(done, total):
                self._journal.evaluation_is_at(self._current.epochs, done, total)
            case Finished():
                self._take_in(standing, self._current, self._current.outcome())
                self._go_on(standing)
            case Failed() as failed:
                self._take_failure(standing, self._current, failed)
                self._go_on(standing)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until there may be something to take in."""
        self._side.wait(seconds)

    def forget_decided(self, standing: Standing) -> None:
        """Remove what is evaluated, now that a checkpoint says so."""
        for snapshot in self._snapshots.all():
            if snapshot.epochs <= standing.evaluated:
                self._snapshots.discard(snapshot)

    def _go_on(self, standing: Standing) -> None:
        """Have the next one evaluated, unless one is, or its result is there already."""
        while self._current is None and self._waiting:
            self._current, self._attempts = self._waiting.pop(0), 1
            outcome = self._current.outcome()
            if outcome is not None:
                self._take_in(standing, self._current, outcome)
            else:
                self._journal.evaluation_begins(self._current.epochs)
                self._side.begin(self._current)

    def _take_in(self, standing: Standing, snapshot: Snapshot, outcome: Outcome | None) -> None:
        self._current = None
        if outcome is None:
            self._give_up(standing, snapshot, "its result cannot be read")
            return
        for problem in outcome.unreadable:
            if problem not in self._unreadable:
                self._unreadable.add(problem)
                self._journal.problem(standing, f"unreadable and not evaluated on: {problem}")
        values = outcome.metrics.values
        value = values.get(self._workload.primary_metric)
        is_best = value is not None and (standing.best is None or value > standing.best)
        if is_best:
            try:
                self._workload.publish(snapshot.weights, self._folder / "best", values)
            except OSError as error:
                self._give_up(standing, snapshot, str(error))
                return
            standing.best = value
        standing.evaluated = snapshot.epochs
        self.failure = None
        self._journal.evaluated(standing, snapshot.epochs, outcome.metrics, is_best=is_best)

    def _take_failure(self, standing: Standing, snapshot: Snapshot, failed: Failed) -> None:
        if failed.died and self._attempts < _MAX_ATTEMPTS:
            self._attempts += 1
            self._journal.problem(
                standing, f"evaluating after epoch {snapshot.epochs} begins anew: {failed.reason}"
            )
            self._side.begin(snapshot)
            return
        self._give_up(standing, snapshot, failed.reason)

    def _give_up(self, standing: Standing, snapshot: Snapshot, reason: str) -> None:
        """The training goes on; the latest that failed is kept, and tried again when resumed."""
        self._current = None
        if self._failed is not None:
            self._snapshots.discard(self._failed)
        self._failed = snapshot
        again = reason == self.failure
        self.failure = reason
        self._journal.evaluation_failed(standing, snapshot.epochs, "as before" if again else reason)
