"""Which weights are evaluated when, and what becomes of it; `PlayedEvaluator` stands beside."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.toy_training import (
    PlayedEvaluator,
    StopAfter,
    ToyBatch,
    ToyWorkload,
    resume,
    toy_config,
    toy_trainer,
)
from training.checkpoint import CheckpointStore
from training.config import TrainConfig
from training.evaluation.average_precision import Metrics
from training.evaluation.beside.snapshots import Outcome, Snapshot
from training.run.progress import current_records, read_records

#: Evaluations come after each epoch but the first.
CONFIG = toy_config(epochs=5, last_stage_epochs=4)
SCORES = {2: 0.2, 3: 0.5, 4: 0.4, 5: 0.5}
STEPS_AN_EPOCH = 3


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = current_records(read_records(folder / "progress.jsonl"))
    return [each for each in found if each["kind"] == kind]


def evaluations(folder: Path) -> list[tuple[int, bool]]:
    return [(each["epoch"], each["is_best"]) for each in records(folder, "evaluation")]


def outstanding(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "evaluations").glob("epoch-*"))


def all_waiting(config: TrainConfig = CONFIG) -> TrainConfig:
    return replace(config, evaluation=replace(config.evaluation, max_waiting=10))


def run(
    folder: Path, *, stop: int | None = None, slow: bool = False, again: bool = False
) -> PlayedEvaluator:
    """A run, or the rest of one, that is stopped after so many steps."""
    workload = ToyWorkload(scores=SCORES)
    side = PlayedEvaluator(SCORES, is_slow=slow)
    trainer = toy_trainer(folder, workload, all_waiting(), side=side)
    if again:
        resume(trainer)
    if stop is None:
        assert trainer.run()
    else:
        assert not trainer.run(StopAfter(stop))
    return side


@pytest.fixture
def quick_run(tmp_path: Path) -> Path:
    """Its evaluations are done at once."""
    folder = tmp_path / "quick"
    folder.mkdir()
    run(folder)
    return folder


def assert_same_best(ours: Path, theirs: Path) -> None:
    here, there = (load_file(folder / "best.safetensors") for folder in (ours, theirs))
    for name, value in here.items():
        assert torch.equal(value, there[name]), name


# -------------------------------------------------------------------------------- what comes of it


def test_evaluations__come_in_every_epoch_of_the_last_stage(quick_run: Path) -> None:
    assert evaluations(quick_run) == [(2, True), (3, True), (4, False), (5, False)]


def test_evaluations__are_recorded_at_their_epoch_and_by_class(tmp_path: Path) -> None:
    run(tmp_path, slow=True)
    assert evaluations(tmp_path) == [(2, True), (3, True), (4, False), (5, False)]
    record = records(tmp_path, "evaluation")[0]
    assert record["step"] == 2 * STEPS_AN_EPOCH
    assert record["per_class"] == {"cat": {"score": 0.2}}


def test_evaluations__leave_nothing_when_a_run_has_ended(quick_run: Path) -> None:
    assert outstanding(quick_run) == []


def test_evaluations__best_weights_are_those_that_were_evaluated(
    quick_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "slow"
    folder.mkdir()
    side = run(folder, slow=True)
    # All but the first began when the training had long ended.
    assert side.begun == [2, 3, 4, 5]
    assert_same_best(folder, quick_run)
    last = load_file(folder / "last.safetensors")
    assert not torch.equal(last["0.weight"], load_file(folder / "best.safetensors")["0.weight"])
    state = CheckpointStore(folder / "checkpoints", 2).load_latest()
    assert state is not None
    assert state.best == 0.5


def test_evaluations__change_no_weight(quick_run: Path, tmp_path: Path) -> None:
    toy_trainer(tmp_path, ToyWorkload(), CONFIG).run()
    ours, theirs = (load_file(each / "last.safetensors") for each in (tmp_path, quick_run))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


# ---------------------------------------------------------------------------- slower than training


def test_evaluations__that_are_too_slow_leave_out_the_oldest_that_waits(tmp_path: Path) -> None:
    workload = ToyWorkload(scores=SCORES)
    config = replace(CONFIG, evaluation=replace(CONFIG.evaluation, max_waiting=1))
    side = PlayedEvaluator(SCORES, is_slow=True)
    assert toy_trainer(tmp_path, workload, config, side=side).run()
    assert side.begun == [2, 5]
    problems = [each["message"] for each in records(tmp_path, "problem")]
    assert [problem[:29] for problem in problems] == [
        "not evaluated after epoch 3: ",
        "not evaluated after epoch 4: ",
    ]


# -------------------------------------------------------------------------------------- interrupted


@pytest.mark.parametrize("stop", [5, 7, 11, 14])
def test_evaluations__that_a_stop_leaves_are_made_when_resumed(
    quick_run: Path, tmp_path: Path, stop: int
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    run(folder, stop=stop, slow=True)
    assert evaluations(folder) == []
    run(folder, again=True)
    assert evaluations(folder) == evaluations(quick_run)
    assert_same_best(folder, quick_run)
    assert outstanding(folder) == []


def test_evaluations__stopped_while_all_wait_for_the_last(tmp_path: Path, quick_run: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    # Fifteen steps; the sixteenth question is that of the wait.
    run(folder, stop=15, slow=True)
    assert (folder / "last.safetensors").is_file()
    assert outstanding(folder) == [f"epoch-000{epochs}" for epochs in SCORES]
    side = run(folder, again=True)
    assert side.begun == list(SCORES)
    assert_same_best(folder, quick_run)


def test_evaluations__with_a_result_are_not_made_again(tmp_path: Path) -> None:
    run(tmp_path, stop=7, slow=True)
    # As after a kill that came before anybody looked.
    snapshot = Snapshot(tmp_path / "evaluations" / "epoch-0002", 2)
    snapshot.keep(Outcome(Metrics({"score": 0.9}, {}, 2)))
    assert run(tmp_path, again=True).begun == [3, 4, 5]
    assert evaluations(tmp_path) == [(2, True), (3, False), (4, False), (5, False)]


def test_evaluations__half_written_ones_are_removed(tmp_path: Path) -> None:
    run(tmp_path, stop=7, slow=True)
    (tmp_path / "evaluations" / "epoch-0003.part").mkdir()
    (tmp_path / "evaluations" / "epoch-0001.gone").mkdir()
    assert run(tmp_path, again=True).begun == [2, 3, 4, 5]
    assert outstanding(tmp_path) == []


def test_evaluations__with_a_torn_result_are_made_again(tmp_path: Path) -> None:
    run(tmp_path, stop=7, slow=True)
    (tmp_path / "evaluations" / "epoch-0002" / "result.json").write_text('{"metrics": {')
    assert run(tmp_path, again=True).begun == [2, 3, 4, 5]


def test_evaluations__of_weights_after_the_checkpoint_are_discarded(tmp_path: Path) -> None:
    run(tmp_path, stop=6, slow=True)
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "before")
    side = run(tmp_path, stop=3, slow=True, again=True)
    assert side.begun == [2]
    assert outstanding(tmp_path) == ["epoch-0002", "epoch-0003"]
    # Killed before anything of that was saved.
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "before").rename(tmp_path / "checkpoints")
    trainer = toy_trainer(tmp_path, ToyWorkload(scores=SCORES), all_waiting())
    resume(trainer)
    assert trainer._evaluations is not None
    assert trainer.standing.requested == 2
    assert outstanding(tmp_path) == ["epoch-0002"]


def test_evaluations__of_weights_that_a_rollback_throws_away_are_not_made(tmp_path: Path) -> None:
    side = PlayedEvaluator(SCORES, is_slow=True)
    trainer = toy_trainer(tmp_path, ToyWorkload(scores=SCORES), all_waiting(), side=side)
    assert trainer._evaluations is not None
    assert not trainer.run(StopAfter(9))
    assert trainer._evaluations.outstanding == [2, 3]
    trainer._evaluations.return_to(replace(trainer.standing, requested=2))
    assert trainer._evaluations.outstanding == [2]
    assert outstanding(tmp_path) == ["epoch-0002"]
    trainer._evaluations.return_to(replace(trainer.standing, requested=0))
    assert trainer._evaluations.outstanding == []
    assert outstanding(tmp_path) == []


def test_evaluations__a_rollback_keeps_those_of_the_checkpoint(tmp_path: Path) -> None:
    def spoil(epoch: int, number: int, batch: ToyBatch) -> ToyBatch:
        spoiled = (epoch, number) == (3, 2)
        return replace(batch, labels=torch.full_like(batch.labels, -100)) if spoiled else batch

    config = all_waiting()
    config = replace(config, runtime=replace(config.runtime, on_nonfinite="rollback"))
    side = PlayedEvaluator(SCORES, is_slow=True)
    trainer = toy_trainer(tmp_path, ToyWorkload(scores=SCORES, spoil=spoil), config, side=side)
    assert trainer.run()
    assert trainer.standing.num_rollbacks == 1
    assert side.begun == [2, 3, 4, 5]


# ----------------------------------------------------------------------------------------- failures


def test_evaluations__that_fail_end_no_run(tmp_path: Path) -> None:
    scores: dict[int, float | None] = {2: None, 3: None, 4: 0.1, 5: None}
    side = PlayedEvaluator(scores)
    trainer = toy_trainer(tmp_path, ToyWorkload(scores=SCORES), CONFIG, side=side)
    assert trainer.run()
    assert evaluations(tmp_path) == [(4, True)]
    assert [each["message"] for each in records(tmp_path, "problem")] == [
        "the evaluation after epoch 2 failed: img.jpg: truncated",
        "the evaluation after epoch 3 failed: as before",
        "the evaluation after epoch 5 failed: img.jpg: truncated",
    ]
    assert outstanding(tmp_path) == ["epoch-0005"]


def test_evaluations__the_last_that_failed_is_tried_again_when_resumed(tmp_path: Path) -> None:
    scores: dict[int, float | None] = dict.fromkeys(SCORES)
    side = PlayedEvaluator(scores)
    trainer = toy_trainer(tmp_path, ToyWorkload(scores=SCORES), CONFIG, side=side)
    assert trainer.run()
    assert trainer._evaluations is not None
    assert trainer._evaluations.failure == "img.jpg: truncated"
    assert trainer.standing.evaluated == 0
    assert not (tmp_path / "best.safetensors").exists()
    run(tmp_path, again=True)
    assert evaluations(tmp_path) == [(5, True)]
    assert (tmp_path / "best.safetensors").is_file()


def test_evaluations__of_weights_that_cannot_be_written_end_no_run(tmp_path: Path) -> None:
    (tmp_path / "evaluations").write_text("no folder")
    trainer = toy_trainer(tmp_path, ToyWorkload(scores=SCORES), CONFIG)
    assert trainer.run()
    assert evaluations(tmp_path) == []
    assert len(records(tmp_path, "problem")) == len(SCORES)
    assert (tmp_path / "last.safetensors").is_file()


def test_evaluations__whose_best_cannot_be_written_are_kept(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").mkdir()
    config = replace(CONFIG, schedule=replace(CONFIG.schedule, epochs=2, last_stage_epochs=1))
    assert toy_trainer(tmp_path, ToyWorkload(scores=SCORES), config).run()
    assert evaluations(tmp_path) == []
    (tmp_path / "best.safetensors").rmdir()
    trainer = toy_trainer(tmp_path, ToyWorkload(scores=SCORES), config)
    resume(trainer)
    assert trainer.run()
    assert evaluations(tmp_path) == [(2, True)]
    assert (tmp_path / "best.safetensors").is_file()
