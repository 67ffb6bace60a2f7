"""The learning rate of every step, as a pure function of the step."""

import math

from training.config import ScheduleConfig


def learning_rate(
    step: int, *, base_lr: float, schedule: ScheduleConfig, steps_per_epoch: int
) -> float:
    """The rate that the optimizer's step number `step`, counted from 0, is taken with.

    Linear from `base_lr * warmup_start_factor` to `base_lr`, which the last step of the warm-up
    has; then flat; then a cosine whose lowest point `base_lr * final_lr_factor` would be the step
    after the last. The cosine waits for the end of the warm-up, so that a run shorter than its
    warm-up only climbs. Source: the published schedules, as recorded.
    """
    total_steps = schedule.epochs * steps_per_epoch
    warmup = warmup_steps(schedule, total_steps=total_steps)
    if step < warmup - 1:
        start = schedule.warmup_start_factor
        return base_lr * (start + (1 - start) * step / (warmup - 1))
    cosine_start = max(round(schedule.cosine_from * total_steps), warmup)
    if step <= cosine_start:
        return base_lr
    # Steps beyond the end, which only a changed number of epochs could ask for, stay at its rate.
    share = min((step - cosine_start) / (total_steps - cosine_start), 1.0)
    lowest = base_lr * schedule.final_lr_factor
    return lowest + (base_lr - lowest) * (1 + math.cos(math.pi * share)) / 2


def warmup_steps(schedule: ScheduleConfig, *, total_steps: int) -> int:
    """How many of the run's steps are warm-up; it may be more than there are."""
    if schedule.warmup_share is None:
        return schedule.warmup_steps
    return min(round(schedule.warmup_share * total_steps), schedule.warmup_steps)
