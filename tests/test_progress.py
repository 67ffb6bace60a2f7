import json
import math
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from training.run.progress import (
    ProgressLog,
    StepMeans,
    current_records,
    memory_mib,
    read_records,
)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Points:
    """Curves that remember their points."""

    def __init__(self) -> None:
        self.points: list[tuple[int, Mapping[str, float]]] = []
        self.closed = False

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, values))

    def close(self) -> None:
        self.closed = True


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_progress_log__appends_an_object_per_line(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    log = ProgressLog(path, clock=Clock())
    log.record("start", classes=("a", "b\nc"))
    log.record("step", step=1, epoch=0, losses={"loss_box": torch.tensor(0.5)}, lr=0.004)
    # Also before the file is closed: other programs follow it.
    assert records(path) == [
        {"kind": "start", "time": 100.0, "classes": ["a", "b\nc"]},
        {
            "kind": "step", "time": 100.0, "step": 1, "epoch": 0, "losses": {"loss_box": 0.5},
            "lr": 0.004,
        },
    ]  # fmt: skip
    log.close()


def test_progress_log__goes_on_after_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    for step in (1, 2):
        log = ProgressLog(path)
        log.record("step", step=step)
        log.close()
    assert [record["step"] for record in read_records(path)] == [1, 2]


@pytest.mark.parametrize("whole", ['{"kind": "step", "step": 1}\n', ""])
def test_progress_log__removes_a_torn_last_line(tmp_path: Path, whole: str) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text(whole + '{"kind": "step", "st')
    log = ProgressLog(path, clock=Clock())
    log.record("resume", step=1)
    log.close()
    assert path.read_text() == whole + '{"kind": "resume", "time": 100.0, "step": 1}\n'


def test_read_records__leaves_out_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    assert list(read_records(path)) == [{"kind": "step", "step": 1}]


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_progress_log__stays_json_with_numbers_that_are_not_finite(
    tmp_path: Path, value: object
) -> None:
    path = tmp_path / "progress.jsonl"
    log = ProgressLog(path)
    log.record("problem", step=4, losses={"loss_box": value})
    log.close()
    assert records(path)[0]["losses"] == {"loss_box": None}


def test_progress_log__draws_the_numbers(tmp_path: Path) -> None:
    curves = Points()
    log = ProgressLog(tmp_path / "progress.jsonl", curves=curves)
    log.record("start", seed=3)
    log.record("step", step=4, epoch=0, stage="mixing", lr=0.5, losses={"loss_box": 2})
    log.record("evaluation", step=5, epoch=0, AP=0.25, is_best=True, per_class={"cat": {"AP": 0.5}})
    log.close()
    assert curves.points == [
        (4, {"step/lr": 0.5, "step/losses/loss_box": 2.0}),
        (5, {"evaluation/AP": 0.25}),
    ]
    assert curves.closed


def test_progress_log__has_whole_lines_when_there_was_no_room(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    log = ProgressLog(path)
    log.record("step", step=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            log.record("step", step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.record("step", step=3)
    log.close()
    assert [record["step"] for record in records(path)] == [1, 3]


def test_current_records__forgets_steps_that_were_done_again() -> None:
    happened = [
        {"kind": "start"},
        {"kind": "step", "step": 10},
        {"kind": "step", "step": 20},
        {"kind": "resume", "step": 10},
        {"kind": "step", "step": 20, "again": True},
    ]
    assert current_records(happened) == [*happened[:2], *happened[3:]]


def test_current_records__have_an_evaluation_once() -> None:
    happened = [
        {"kind": "step", "step": 10, "epoch": 2},
        {"kind": "evaluation", "step": 4, "epoch": 1},
        {"kind": "evaluation", "step": 8, "epoch": 2},
        {"kind": "resume", "step": 10},
        {"kind": "evaluation", "step": 8, "epoch": 2, "again": True},
    ]
    assert current_records(happened) == [*happened[:2], *happened[3:]]


# ------------------------------------------------------------------------------------------ means


def test_step_means__are_of_the_steps_since_the_last() -> None:
    means = StepMeans(total_steps=100)
    for value in (1.0, 3.0):
        means.add({"loss": torch.tensor(value), "lr": value / 2}, num_images=4)
    first = means.take(2)
    means.add({"loss": torch.tensor(7.0)}, num_images=4)
    assert (first["loss"], first["lr"]) == (2.0, 1.0)
    assert means.take(3)["loss"] == 7.0


def test_step_means__leave_the_losses_as_they_are() -> None:
    means = StepMeans(total_steps=100)
    loss = torch.tensor(1.0)
    for _ in range(3):
        means.add({"loss": loss}, num_images=4)
    assert loss == 1.0


def test_step_means__give_speed_and_time_left() -> None:
    clock = Clock()
    means = StepMeans(total_steps=20, clock=clock)
    for _ in range(4):
        clock.seconds += 0.5
        means.add({}, num_images=8)
    assert means.take(10) == {"images_per_second": 16.0, "eta_s": 5.0}


def test_step_means__have_nothing_without_a_step() -> None:
    assert StepMeans(total_steps=1).take(0) == {}


def test_memory_mib__is_of_this_process() -> None:
    assert memory_mib()["memory_mib"] > 50


# ------------------------------------------------------------------------------------ tensorboard


def test_tensorboard_curves__forget_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    from training.run.tensorboard_curves import TensorBoardCurves

    first = TensorBoardCurves(tmp_path)
    for step in (1, 2, 3):
        first.add(step, {"step/loss": float(step)})
    first.close()
    resumed = TensorBoardCurves(tmp_path, resumed_from=1)
    resumed.add(2, {"step/loss": 20.0})
    resumed.close()

    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(1, 1.0), (2, 20.0)]
