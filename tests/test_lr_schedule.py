import json
from pathlib import Path

import pytest

from training.config import ScheduleConfig
from training.optimisation.schedule import learning_rate, warmup_steps
from training.recipes import recipe

#: What was recorded, and the recipe that it belongs to.
RECORDED = {
    "det_s": "rtmdet-s",
    "ins_x": "rtmdet-ins-x",
    "rot_l_3x": "rtmdet-r-l",
    "rot_l_100e_aug": "rtmdet-r-l-100e",
}


def rates(schedule: ScheduleConfig, *, steps_per_epoch: int) -> list[float]:
    return [
        learning_rate(step, base_lr=1.0, schedule=schedule, steps_per_epoch=steps_per_epoch)
        for step in range(schedule.epochs * steps_per_epoch)
    ]


@pytest.mark.parity
@pytest.mark.parametrize("kind", RECORDED)
def test_learning_rate__of_the_recipes_is_the_recorded_one(shared_folder: Path, kind: str) -> None:
    path = shared_folder / "reference" / "golden" / "sched" / "lr.json"
    recorded = json.loads(path.read_text())[kind]
    config = recipe(RECORDED[kind])
    per_epoch, epochs = recorded["iters_per_epoch"], recorded["max_epochs"]
    wanted = {int(step): lr for step, lr in recorded["lr_at_iter"].items()}
    wanted |= {
        epoch * per_epoch: lr for epoch, lr in enumerate(recorded["lr_at_first_iter_of_epoch"])
    }
    wanted[epochs * per_epoch - 1] = recorded["lr_last_iter"]
    assert (config.schedule.epochs, config.optimizer.lr) == (epochs, recorded["base_lr"])
    assert len(wanted) > epochs
    for step, lr in wanted.items():
        ours = learning_rate(
            step,
            base_lr=config.optimizer.lr,
            schedule=config.schedule,
            steps_per_epoch=per_epoch,
        )
        # The reference multiplies its way from step to step, and its error grows with them.
        assert ours == pytest.approx(lr, rel=1e-12), step


def test_learning_rate__climbs_stays_and_falls() -> None:
    schedule = ScheduleConfig(epochs=10, warmup_steps=5, warmup_start_factor=0.2)
    found = rates(schedule, steps_per_epoch=10)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert found[5:51] == [1.0] * 46
    assert found[75] == pytest.approx((1 + 0.05) / 2)
    assert found[51:] == sorted(found[51:], reverse=True)
    assert 0.05 < found[-1] < 0.06


def test_learning_rate__cosine_from_the_start_waits_for_the_warm_up() -> None:
    schedule = ScheduleConfig(epochs=2, warmup_steps=10, cosine_from=0.0)
    found = rates(schedule, steps_per_epoch=20)
    assert found[:10] == sorted(found[:10])
    assert found[9] == found[10] == 1.0
    assert found[11] < 1.0
    assert found[25] == pytest.approx((1 + 0.05) / 2)


def test_learning_rate__run_shorter_than_its_warm_up_only_climbs() -> None:
    found = rates(ScheduleConfig(epochs=1, warmup_steps=1000), steps_per_epoch=7)
    assert found == sorted(found)
    assert found[-1] < 0.01


@pytest.mark.parametrize("warmup", [0, 1])
def test_learning_rate__without_warm_up_starts_at_the_base(warmup: int) -> None:
    found = rates(ScheduleConfig(epochs=1, warmup_steps=warmup), steps_per_epoch=4)
    assert found[:3] == [1.0, 1.0, 1.0]
    assert found[3] == pytest.approx((1 + 0.05) / 2)


def test_learning_rate__flat_to_the_end() -> None:
    schedule = ScheduleConfig(epochs=1, warmup_steps=0, cosine_from=1.0)
    assert rates(schedule, steps_per_epoch=5) == [1.0] * 5


def test_learning_rate__single_step() -> None:
    schedule = ScheduleConfig(epochs=1, warmup_steps=0, cosine_from=0.0)
    assert rates(schedule, steps_per_epoch=1) == [1.0]


@pytest.mark.parametrize(
    ("share", "total", "steps"), [(None, 100, 1000), (0.05, 2000, 100), (0.05, 10**6, 1000)]
)
def test_warmup_steps__as_a_share_is_at_most_the_published_number(
    share: float | None, total: int, steps: int
) -> None:
    assert warmup_steps(ScheduleConfig(warmup_share=share), total_steps=total) == steps
