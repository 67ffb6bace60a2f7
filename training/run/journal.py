"""Tells people and programs what a run does: the display, `progress.jsonl`, and `status.json`.

The trainer of every rank has one; only the first rank's has anywhere to tell it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from training.config import TrainConfig
from training.evaluation.average_precision import Metrics
from training.learner import Standing
from training.position import Pace, Position
from training.run.display import Display, StepReport
from training.run.progress import Kind, ProgressLog, StepMeans, memory_mib
from training.run.run_folder import RunFolder
from training.step import StepResult

#: Metrics that are recorded and left out on the screen.
_BY_SIZE = ("_small", "_medium", "_large")


class Journal:
    """What happens in a run, as it happens. Epochs are shown from 1 and recorded from 0."""

    def __init__(
        self,
        config: TrainConfig,
        pace: Pace,
        display: Display,
        *,
        log: ProgressLog | None = None,
        run: RunFolder | None = None,
    ) -> None:
        self._config = config
        self._pace = pace
        self._display = display
        self._log = log
        self._run = run
        self._means = StepMeans(pace.total_steps)
        self._stage: str | None = None

    def began(self, lines: Sequence[str], standing: Standing, *, resumed: bool) -> None:
        """The run begins, or goes on."""
        self._means = StepMeans(self._pace.total_steps)
        for line in lines:
            self._display.message(line)
        self._record("resume" if resumed else "start", standing)
        self._status(standing)

    def epoch_begins(self, standing: Standing) -> None:
        """The rest of an epoch begins; says so where that is a new stage."""
        epoch = standing.position.epoch
        stage = self._config.stage_of(epoch).name
        if stage != self._stage:
            self._stage = stage
            self._display.message(f"epoch {epoch + 1}: stage '{stage}'")
            self._record("stage", standing, stage=stage)

    def first_batch_is_here(self) -> None:
        """From here on time counts: what came before was starting the workers."""
        self._means = StepMeans(self._pace.total_steps)

    def stepped(
        self, standing: Standing, result: StepResult, *, lr: float, num_images: int, epoch: int
    ) -> None:
        """A step of `epoch` was taken, on images of all ranks together."""
        step = self._pace.step(standing.position)
        self._means.add({**result.losses, "grad_norm": result.grad_norm}, num_images=num_images)
        self._display.advance(step)
        every = self._config.runtime.log_every_steps
        # Short epochs, too, are heard of.
        if step % every and standing.position.batch:
            return
        stage = self._config.stage_of(epoch).name
        means = self._means.take(step)
        record = {"lr": lr, "stage": stage, **means, **memory_mib()}
        self._record("step", standing, **record)
        speed, eta_s = means.pop("images_per_second"), means.pop("eta_s")
        self._display.show(
            StepReport(
                step=step,
                total_steps=self._pace.total_steps,
                epoch=epoch,
                num_epochs=self._pace.epochs,
                stage=stage,
                values=means,
                lr=lr,
                images_per_second=speed,
                eta_s=eta_s,
            )
        )

    def saved(self, standing: Standing) -> None:
        """A checkpoint was written."""
        self._record("checkpoint", standing)
        self._status(standing)

    def evaluation_begins(self, epochs: int) -> None:
        """The averaged weights after so many epochs are evaluated from here on."""
        self._display.beside(f"evaluating after epoch {epochs}")

    def evaluation_is_at(self, epochs: int, done: int, total: int) -> None:
        """So many validation images of so many are done."""
        self._display.beside(f"evaluating after epoch {epochs}: {done}/{total}")

    def evaluated(
        self, standing: Standing, epochs: int, metrics: Metrics, *, is_best: bool
    ) -> None:
        """The weights after so many epochs were evaluated; the run may be well beyond them."""
        self._display.beside("")
        values = metrics.values.items()
        shown = {name: value for name, value in values if not name.endswith(_BY_SIZE)}
        listed = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        best = " (the best so far)" if is_best else ""
        self._display.message(f"after epoch {epochs}: {listed}{best}")
        self._record(
            "evaluation",
            replace(standing, position=Position(epochs)),
            metrics=metrics.values,
            per_class=metrics.per_class,
            num_images=metrics.num_images,
            is_best=is_best,
        )

    def evaluation_failed(self, standing: Standing, epochs: int, reason: str) -> None:
        """The weights after so many epochs could not be evaluated, which ends no run."""
        self._display.beside("")
        self.problem(standing, f"the evaluation after epoch {epochs} failed: {reason}")

    def evaluations_go_on(self, outstanding: Sequence[int]) -> None:
        """The run was stopped before these were evaluated."""
        self._display.message(f"still to be evaluated: after {_epochs(outstanding)}")

    def waits_for_evaluations(self, outstanding: Sequence[int]) -> None:
        """Training is at its end, evaluations are not."""
        self._display.message(
            f"trained to the end; waiting for the evaluation after {_epochs(outstanding)} "
            "(stopped here, --resume makes up for it)"
        )

    def problem(self, standing: Standing, text: str) -> None:
        """Something went wrong that the run survives."""
        self._display.message(text)
        self._record("problem", standing, message=text)

    def rolled_back(self, standing: Standing, to: Standing, summary: str) -> None:
        """A step was not finite; the weights are those of an earlier checkpoint again."""
        step = self._pace.step(to.position)
        self.problem(
            standing,
            f"{summary}; it is left out, and the weights are those of step {step} again",
        )

    def ended(self, standing: Standing, *, finished: bool, message: str, exit_code: int) -> None:
        """The run is at its end, or stopped on request."""
        self._display.message(message)
        self._record("end", standing, finished=finished, message=message)
        state = "finished" if finished else "interrupted"
        self._status(standing, state=state, exit_code=exit_code, message=message)

    def failed(self, standing: Standing, message: str, exit_code: int) -> None:
        """The run cannot go on; a disk that is full must not hide why."""
        with suppress(OSError):
            self._record("end", standing, finished=False, message=message)
        with suppress(OSError):
            self._status(standing, state="failed", exit_code=exit_code, message=message)

    def close(self) -> None:
        """Leave the terminal as it was, and the records on the disk."""
        self._display.close()
        if self._log is not None:
            self._log.close()

    def _record(self, kind: Kind, standing: Standing, **values: object) -> None:
        if self._log is not None:
            step = self._pace.step(standing.position)
            self._log.record(kind, step=step, epoch=standing.position.epoch, **values)

    def _status(
        self,
        standing: Standing,
        *,
        state: str = "running",
        exit_code: int | None = None,
        message: str | None = None,
    ) -> None:
        if self._run is not None:
            self._run.write_status(
                state,  # type: ignore[arg-type]
                step=self._pace.step(standing.position),
                epoch=standing.position.epoch,
                exit_code=exit_code,
                message=message,
            )


def _epochs(numbers: Sequence[int]) -> str:
    return f"epoch{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
