import json
from dataclasses import replace

import pytest
import torch

from model.config import VARIANTS
from model.rtmdet import build_rtmdet
from training.datasets import ReadingReport
from training.memory import estimate_memory
from training.plan import DataCounts, PlannedStage, lines, make_plan
from training.recipes import recipe

COUNTS = DataCounts(118_287, 5_000, tuple(f"class {i}" for i in range(80)), 860_001)


def test_plan__of_the_published_run() -> None:
    plan = make_plan(recipe("rtmdet-m"), COUNTS, num_ranks=8)
    assert plan.total_batch_size == 256
    assert plan.steps_per_epoch == 463
    assert plan.stages == (PlannedStage("mixing", 1, 280), PlannedStage("jitter", 281, 300))
    assert plan.learning_rates[999] == pytest.approx(0.004)
    assert plan.learning_rates[280 * 463] == pytest.approx(3.6426e-4, rel=1e-3)
    assert plan.average_horizon_steps == 5000
    assert len(plan.evaluations) == 28 + 20


def test_plan__learning_rate_follows_the_batch() -> None:
    one = make_plan(recipe("rtmdet-m"), COUNTS, num_ranks=1)
    assert one.total_batch_size == 32
    assert max(one.learning_rates.values()) == pytest.approx(0.0005)


def test_plan__nothing_to_evaluate_on() -> None:
    plan = make_plan(recipe("rtmdet-s"), replace(COUNTS, val_images=0), num_ranks=1)
    assert plan.evaluations == ()
    assert "nothing to evaluate on" in "\n".join(lines(plan))


def test_plan__fine_tuning_is_in_proportion() -> None:
    plan = make_plan(recipe("rtmdet-s-finetune"), replace(COUNTS, train_images=400), num_ranks=1)
    assert plan.total_steps == 60 * 50
    assert plan.warmup_steps == 150
    assert plan.average_horizon_steps == 108


def test_plan__says_when_a_stage_has_no_epochs() -> None:
    config = recipe("rtmdet-s-finetune")
    short = replace(config, schedule=replace(config.schedule, epochs=5))
    assert "no epoch is of the stage 'mixing'" in "\n".join(lines(make_plan(short, COUNTS, 1)))
    assert "no epoch is of" not in "\n".join(lines(make_plan(config, COUNTS, 1)))


def test_plan__fine_tuning_wants_weights() -> None:
    config = recipe("rtmdet-s-finetune")
    assert "model.init=WEIGHTS" in "\n".join(lines(make_plan(config, COUNTS, 1)))
    started = replace(config, model=replace(config.model, init="weights.pth"))
    assert "NOTE" not in "\n".join(lines(make_plan(started, COUNTS, 1)))


def test_plan__says_when_images_repeat_in_a_step() -> None:
    few = replace(COUNTS, train_images=20)
    assert "so they repeat in it" in "\n".join(lines(make_plan(recipe("rtmdet-s"), few, 1)))


def test_plan__says_when_the_warm_up_outlasts_the_run() -> None:
    few = replace(COUNTS, train_images=40)
    assert "-finetune" in "\n".join(lines(make_plan(recipe("rtmdet-s"), few, num_ranks=1)))
    assert "-finetune" not in "\n".join(lines(make_plan(recipe("rtmdet-s"), COUNTS, num_ranks=1)))


def test_reading_report__speaks_every_few_seconds() -> None:
    said: list[str] = []
    times = iter([0.0, 1.0, 6.0, 6.0, 7.0])
    report = ReadingReport(said.append, clock=lambda: next(times))
    for done in (10, 1_000, 1_200):
        report("train", done, 5_000)
    assert said == ["reading train: 1,000 of 5,000 images"]


def test_plan__is_json() -> None:
    plan = make_plan(recipe("cspnext-tiny"), COUNTS, num_ranks=2)
    assert json.loads(json.dumps(plan.as_json()))["total_batch_size"] == 512


def test_memory__is_what_autograd_keeps() -> None:
    config = VARIANTS["rtmdet-nano"]
    with torch.device("meta"):
        estimate = estimate_memory(build_rtmdet(config), (128, 128), 4, bf16=False)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network = build_rtmdet(config).train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = network(torch.zeros(4, 3, 128, 128))
    owned = {each.untyped_storage().data_ptr() for each in network.parameters()}
    counted = sum(size for address, size in kept.items() if address not in owned)
    assert outputs.logits
    assert estimate.activations_bytes == pytest.approx(counted, rel=0.05)
    assert estimate.weights_bytes == 5 * 4 * sum(each.numel() for each in network.parameters())
