"""What a run would do, without doing it: `rtmdet train --dry-run`, and the head of every run."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from model.config import CLASSIFIERS
from training.config import TrainConfig
from training.memory import MemoryEstimate, estimate_memory
from training.networks import build_network
from training.optimisation.ema import proportioned
from training.optimisation.optim import scaled_lr
from training.optimisation.schedule import learning_rate, warmup_steps
from training.position import Pace


@dataclass(frozen=True)
class DataCounts:
    """How much there is to train and to evaluate on."""

    train_images: int
    val_images: int
    classes: tuple[str, ...]
    train_instances: int | None = None


@dataclass(frozen=True)
class PlannedStage:
    """Epochs `first` to `last`, counted from 1."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """A run in figures. Learning rates are keyed by the step that is taken with them."""

    recipe: str
    model: str
    init: str | None
    input_size: tuple[int, int]
    classes: tuple[str, ...]
    train_images: int
    train_instances: int | None
    val_images: int
    num_ranks: int
    total_batch_size: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    stages: tuple[PlannedStage, ...]
    #: A stage of the recipe that has no epochs.
    left_out: str | None
    learning_rates: dict[int, float]
    average_horizon_steps: int
    evaluations: tuple[int, ...]
    memory: MemoryEstimate

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return asdict(self)


def make_plan(config: TrainConfig, data: DataCounts, num_ranks: int) -> Plan:
    """The plan of a run on that data."""
    batches = -(-data.train_images // (config.data.batch_size * num_ranks))
    pace = Pace(config.schedule.epochs, batches, config.optimizer.accumulation_steps)
    total_batch = config.total_batch_size(num_ranks)
    average = proportioned(config.ema, total_steps=pace.total_steps)
    return Plan(
        recipe=config.recipe,
        model=config.model.name,
        init=config.model.init,
        input_size=config.model.input_size,
        classes=data.classes,
        train_images=data.train_images,
        train_instances=data.train_instances,
        val_images=data.val_images,
        num_ranks=num_ranks,
        total_batch_size=total_batch,
        steps_per_epoch=pace.steps_per_epoch,
        total_steps=pace.total_steps,
        warmup_steps=warmup_steps(config.schedule, total_steps=pace.total_steps),
        stages=_stages(config),
        left_out=_left_out(config),
        learning_rates=_learning_rates(config, pace, scaled_lr(config.optimizer, total_batch)),
        average_horizon_steps=round(1 / average.momentum) if average.momentum else 0,
        evaluations=_evaluations(config) if data.val_images else (),
        memory=_memory(config, len(data.classes)),
    )


def lines(plan: Plan) -> Iterator[str]:
    """The plan for people."""
    height, width = plan.input_size
    instances = f", {plan.train_instances:,} instances" if plan.train_instances is not None else ""
    yield f"recipe     {plan.recipe}: {plan.model}, {height}x{width}"
    yield f"weights    {'from ' + plan.init if plan.init else 'random'}"
    yield (
        f"data       {plan.train_images:,} images{instances}; "
        f"{plan.val_images:,} to evaluate on; {_some(plan.classes)}"
    )
    processes = f"{plan.num_ranks} process{'es' if plan.num_ranks > 1 else ''}"
    yield (
        f"steps      {_counted(plan.total_batch_size, 'image')} a step on {processes}; "
        f"{_counted(plan.steps_per_epoch, 'step')} an epoch, "
        f"{plan.total_steps:,} in all, {plan.warmup_steps:,} of them warm-up"
    )
    for stage in plan.stages:
        last = f"s {stage.first} to {stage.last}" if stage.last > stage.first else f" {stage.last}"
        yield f"stage      {stage.name}: epoch{last}"
    rates = ", ".join(f"{rate:.3g} at step {step:,}" for step, rate in plan.learning_rates.items())
    yield f"rates      {rates}"
    yield f"average    over about {_counted(plan.average_horizon_steps, 'step')}"
    yield f"evaluation {_epochs(plan.evaluations)}"
    yield (
        f"memory     about {_size(plan.memory.total_bytes)} on each device "
        f"({_size(plan.memory.activations_bytes)} of them activations), losses not counted"
    )
    yield from (f"NOTE       {note}" for note in _notes(plan))


def _notes(plan: Plan) -> Iterator[str]:
    """What will not come out as someone may expect."""
    other = "" if plan.model in CLASSIFIERS else "take a recipe that ends in -finetune, or "
    if plan.warmup_steps >= plan.total_steps:
        yield (
            "the run is shorter than its warm-up, so the rate never gets to where it should: "
            f"{other}--set schedule.warmup_share=0.05"
        )
    if plan.average_horizon_steps >= plan.total_steps:
        yield (
            "the average of the weights, which is what is evaluated and kept, spans more steps "
            f"than there are: {other}--set ema.horizon_share=0.04"
        )
    if plan.left_out:
        yield (
            f"no epoch is of the stage '{plan.left_out}': schedule.last_stage_epochs leaves none"
        )
    if plan.recipe.endswith("-finetune") and plan.init is None:
        yield (
            "this recipe is for training on from weights, and these start at random: "
            "--set model.init=WEIGHTS, such as what 'rtmdet models pull' gets"
        )
    if plan.total_batch_size > plan.train_images:
        yield "a step takes more images than there are, so they repeat in it: lower data.batch_size"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def _some(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
    return f"{len(classes)} class{'es' if len(classes) > 1 else ''} ({shown})"


def _epochs(evaluations: tuple[int, ...]) -> str:
    if not evaluations:
        return "none: there is nothing to evaluate on"
    if len(evaluations) <= 8:
        plural = "s" if len(evaluations) > 1 else ""
        return f"after epoch{plural} {', '.join(map(str, evaluations))}"
    first = ", ".join(map(str, evaluations[:3]))
    return f"{len(evaluations)} times: after epochs {first}, … {evaluations[-2]}, {evaluations[-1]}"


def _stages(config: TrainConfig) -> tuple[PlannedStage, ...]:
    epochs = range(config.schedule.epochs)
    planned: list[PlannedStage] = []
    for index, stage in enumerate(config.stages):
        inside = [epoch for epoch in epochs if config.stage_index(epoch) == index]
        if inside:
            planned.append(PlannedStage(stage.name, inside[0] + 1, inside[-1] + 1))
    return tuple(planned)


def _left_out(config: TrainConfig) -> str | None:
    planned = {stage.name for stage in _stages(config)}
    return next((stage.name for stage in config.stages if stage.name not in planned), None)


def _learning_rates(config: TrainConfig, pace: Pace, base_lr: float) -> dict[int, float]:
    """At the start, after the warm-up, half-way, at the switch, and at the end."""
    total = pace.total_steps
    switch = (config.schedule.epochs - config.schedule.last_stage_epochs) * pace.steps_per_epoch
    warm = warmup_steps(config.schedule, total_steps=total)
    landmarks = {0, min(max(warm - 1, 0), total - 1), total // 2, total - 1}
    if 0 < switch < total:
        landmarks.add(switch)
    return {
        step: learning_rate(
            step,
            base_lr=base_lr,
            schedule=config.schedule,
            steps_per_epoch=pace.steps_per_epoch,
        )
        for step in sorted(landmarks)
    }


def _evaluations(config: TrainConfig) -> tuple[int, ...]:
    epochs = range(1, config.schedule.epochs + 1)
    return tuple(epoch for epoch in epochs if config.schedule.evaluates_after(epoch))


def _memory(config: TrainConfig, num_classes: int) -> MemoryEstimate:
    with torch.device("meta"):
        network = build_network(config.model, num_classes)
    return estimate_memory(
        network,
        config.model.input_size,
        config.data.batch_size,
        bf16=config.runtime.precision == "bf16",
    )
