from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.toy_training import (
    PlayedEvaluator,
    StopAfter,
    ToyBatch,
    ToyWorkload,
    resume,
    toy_config,
    toy_trainer,
)
from training.checkpoint import CheckpointStore, DamagedCheckpoint, TrainingState
from training.config import TrainConfig
from training.run.nonfinite import NonFiniteLoss
from training.run.progress import read_records
from training.trainer import TooManyUnreadable


def finished(folder: Path, config: TrainConfig, stops: list[int]) -> TrainingState:
    """Train to the end, stopped and resumed after so many steps each time."""
    for number, steps in enumerate([*stops, 10_000]):
        torch.manual_seed(number)
        trainer = toy_trainer(folder, ToyWorkload(), config)
        if number:
            resume(trainer)
        assert trainer.run(StopAfter(steps)) is (number == len(stops))
    state = CheckpointStore(folder / "checkpoints", 2).load_latest()
    assert state is not None
    return state


def tensors(state: TrainingState) -> dict[str, Tensor]:
    return {
        **{f"weights/{name}": value for name, value in state.weights.items()},
        **{f"average/{name}": value for name, value in state.average.items()},
        **state.optimizer.tensors,
    }


@pytest.mark.parametrize("stops", [[6], [5], [1, 1, 1], [2, 8]])
def test_trainer__resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, stops: list[int]) -> None:
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = finished(tmp_path / "whole", toy_config(), [])
    parts = finished(tmp_path / "parts", toy_config(), stops)
    assert whole.step == parts.step == 12
    assert whole.average_updates == parts.average_updates
    expected, actual = tensors(whole), tensors(parts)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


def test_trainer__learning_changes_the_weights(tmp_path: Path) -> None:
    workload = ToyWorkload()
    before = {name: value.clone() for name, value in workload.network.state_dict().items()}
    assert toy_trainer(tmp_path, workload, toy_config()).run()
    after = workload.network.state_dict()
    assert not torch.equal(before["0.weight"], after["0.weight"])
    last = load_file(tmp_path / "last.safetensors")
    assert not torch.equal(last["0.weight"], after["0.weight"]), "the average is published"


def test_trainer__takes_every_batch_once(tmp_path: Path) -> None:
    workload = ToyWorkload(batches_per_epoch=5)
    toy_trainer(tmp_path, workload, toy_config(epochs=2)).run()
    assert workload.served == [(epoch, number) for epoch in range(2) for number in range(5)]


def test_trainer__stage_is_recorded_when_it_changes(tmp_path: Path) -> None:
    toy_trainer(tmp_path, ToyWorkload(), toy_config(epochs=4, last_stage_epochs=1)).run()
    stages = [each for each in read_records(tmp_path / "progress.jsonl") if each["kind"] == "stage"]
    assert [(each["epoch"], each["stage"]) for each in stages] == [(0, "mixing"), (3, "jitter")]


def test_trainer__a_finished_run_that_is_made_longer_knows_its_best(tmp_path: Path) -> None:
    config = toy_config(epochs=1, last_stage_epochs=1)
    assert toy_trainer(tmp_path, ToyWorkload(scores={1: 0.9}), config).run()
    best = load_file(tmp_path / "best.safetensors")
    longer = replace(config, schedule=replace(config.schedule, epochs=2))
    trainer = toy_trainer(tmp_path, ToyWorkload(scores={2: 0.5}), longer)
    resume(trainer)
    assert trainer.run()
    assert trainer.standing.best == 0.9
    for name, value in load_file(tmp_path / "best.safetensors").items():
        assert torch.equal(value, best[name])


def test_trainer__saves_a_standing_once(tmp_path: Path) -> None:
    config = toy_config(epochs=3, last_stage_epochs=0)
    config = replace(config, runtime=replace(config.runtime, checkpoint_every_steps=1))
    side = PlayedEvaluator({3: 0.5}, is_slow=True)
    assert toy_trainer(tmp_path, ToyWorkload(scores={3: 0.5}), config, side=side).run()
    records = read_records(tmp_path / "progress.jsonl")
    steps = [each["step"] for each in records if each["kind"] == "checkpoint"]
    # Three steps an epoch; the last is saved again with its evaluation.
    assert steps == [*range(1, 10), 9]


def spoiled(epoch: int, number: int, batch: ToyBatch) -> ToyBatch:
    """A batch whose labels are none, which gives a loss of NaN."""
    if (epoch, number) == (1, 2):
        return replace(batch, labels=torch.full_like(batch.labels, -100))
    return batch


def test_trainer__nonfinite_loss_stops_with_the_batch_kept(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, ToyWorkload(spoil=spoiled), toy_config(accumulation=1))
    with pytest.raises(NonFiniteLoss, match=r"loss is nan.*rollback"):
        trainer.run()
    (kept,) = (tmp_path / "problems").iterdir()
    assert load_file(kept / "batch.safetensors")["0/images"].shape == (4, 8, 8, 3)
    assert trainer.standing.position.batch == 2


def test_trainer__nonfinite_loss_never_reaches_the_weights(tmp_path: Path) -> None:
    workload = ToyWorkload(spoil=spoiled)
    with pytest.raises(NonFiniteLoss):
        toy_trainer(tmp_path, workload, toy_config(accumulation=1)).run()
    assert all(value.isfinite().all() for value in workload.network.state_dict().values())


def rolling(config: TrainConfig, max_rollbacks: int) -> TrainConfig:
    runtime = replace(
        config.runtime,
        on_nonfinite="rollback",
        max_rollbacks=max_rollbacks,
        checkpoint_every_steps=2,
    )
    return replace(config, runtime=runtime)


def test_trainer__rolls_back_and_leaves_the_batch_out(tmp_path: Path) -> None:
    workload = ToyWorkload(spoil=spoiled)
    trainer = toy_trainer(tmp_path, workload, rolling(toy_config(accumulation=1), 3))
    assert trainer.run()
    assert trainer.standing.num_rollbacks == 1
    assert all(value.isfinite().all() for value in workload.network.state_dict().values())
    assert len(workload.served) == 4 * 5
    (problem,) = [
        each for each in read_records(tmp_path / "progress.jsonl") if each["kind"] == "problem"
    ]
    assert "left out" in problem["message"]


def test_trainer__rolls_back_before_anything_was_due_to_be_saved(tmp_path: Path) -> None:
    def spoiled_at_once(epoch: int, number: int, batch: ToyBatch) -> ToyBatch:
        is_first = (epoch, number) == (0, 0)
        return replace(batch, labels=torch.full_like(batch.labels, -100)) if is_first else batch

    trainer = toy_trainer(
        tmp_path, ToyWorkload(spoil=spoiled_at_once), rolling(toy_config(accumulation=1), 1)
    )
    assert trainer.run()
    assert trainer.standing.num_rollbacks == 1


def test_trainer__rolls_back_so_often_and_no_more(tmp_path: Path) -> None:
    trainer = toy_trainer(
        tmp_path, ToyWorkload(spoil=spoiled), rolling(toy_config(accumulation=1), 0)
    )
    with pytest.raises(NonFiniteLoss):
        trainer.run()


def unreadable(epoch: int, number: int, batch: ToyBatch) -> ToyBatch:
    return (
        replace(batch, problems=(f"img{epoch}{number}.jpg: truncated",)) if number == 1 else batch
    )


def test_trainer__unreadable_images_are_reported_and_the_run_goes_on(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, ToyWorkload(spoil=unreadable), toy_config(epochs=3))
    assert trainer.run()
    messages = [
        each["message"]
        for each in read_records(tmp_path / "progress.jsonl")
        if each["kind"] == "problem"
    ]
    assert len(messages) == 3
    assert "img01.jpg" in messages[0]


def test_trainer__an_unreadable_image_counts_once(tmp_path: Path) -> None:
    def again(epoch: int, number: int, batch: ToyBatch) -> ToyBatch:
        return replace(batch, problems=("img.jpg: truncated",)) if number == 1 else batch

    trainer = toy_trainer(tmp_path, ToyWorkload(spoil=again), toy_config(epochs=6))
    assert trainer.run()
    assert trainer.standing.unreadable == ["img.jpg: truncated"]


def test_trainer__too_many_unreadable_images_end_it(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, ToyWorkload(spoil=unreadable), toy_config(epochs=4))
    with pytest.raises(TooManyUnreadable, match=r"max_unreadable is 3.*img31.jpg"):
        trainer.run()


def test_trainer__nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match="nothing was saved yet"):
        resume(toy_trainer(tmp_path, ToyWorkload(), toy_config()))


def test_trainer__learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    config = toy_config(epochs=8)
    toy_trainer(tmp_path, ToyWorkload(), config).run()
    rates = [
        each["lr"] for each in read_records(tmp_path / "progress.jsonl") if each["kind"] == "step"
    ]
    assert rates[0] == pytest.approx(0.01 * 1e-5)
    assert rates[2:12] == pytest.approx([0.01] * 10)
    assert rates[-1] < 0.002
