"""Small networks learn scenes by heart, and do not when a part of their training is disturbed.

Twelve short runs on one core, about two minutes together.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.boxes import decode_boxes, decode_rotated_boxes
from tests.learning import BATCH_SIZE, Lesson, learn, recipe_by_heart, write_lesson
from training.config import TrainConfig
from training.evaluation.average_precision import primary_metric
from training.losses import giou_loss, quality_focal_loss, rotated_iou_loss
from training.matching import match

pytestmark = pytest.mark.slow

TASKS = ("detect", "instance", "rotated")

#: What is reached, with room for another processor's rounding, and what disturbed runs stay below.
LEARNT, NOT_LEARNT = 0.6, 0.3

Disturbance = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lesson]:
    return {
        task: write_lesson(tmp_path_factory.mktemp(task), task, num_train=BATCH_SIZE, num_val=0)
        for task in TASKS
    }


def learnt(lesson: Lesson, *, small_epochs: int = 0) -> float:
    """AP50 of what the task is about."""
    config = recipe_by_heart(lesson.task, small_epochs=small_epochs)
    return learn(lesson, config).values[primary_metric(lesson.task).removesuffix("50") + "50"]


def matches_are_exchanged(patch: pytest.MonkeyPatch) -> None:
    """Every prior learns the instance of another one."""

    def wrong(*args, **options):
        positives = match(*args, **options)
        return replace(positives, instances=positives.instances.roll(len(positives.priors) // 2))

    patch.setattr("training.criterion.match", wrong)


def qualities_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The class loss takes every prior for background."""
    patch.setattr(
        "training.criterion.quality_focal_loss",
        lambda logits, places, qualities: quality_focal_loss(logits, places, qualities * 0),
    )


def boxes_learn_x_for_y(patch: pytest.MonkeyPatch) -> None:
    """Without any box loss half of AP50 would be left: the best of the first sizes is found."""
    for loss in (giou_loss, rotated_iou_loss):

        def exchanged(boxes: Tensor, wanted: Tensor, loss=loss) -> Tensor:
            upright = wanted.shape[1] == 4
            return loss(boxes, wanted[:, [1, 0, 3, 2] if upright else [1, 0, 2, 3, 4]])

        patch.setattr(f"training.criterion.{loss.__name__}", exchanged)


def mask_loss_has_no_gradient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "training.criterion.mask_loss",
        lambda positives, features, *_, **__: (positives.kernels.sum() + features.sum()) * 0,
    )


def boxes_are_decoded_at_half_their_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "model.decoding.decode_boxes",
        lambda points, distances: decode_boxes(points, distances / 2),
    )


def angles_are_decoded_the_other_way_round(patch: pytest.MonkeyPatch) -> None:
    def mirrored(points: Tensor, distances: Tensor, angles: Tensor) -> Tensor:
        return decode_rotated_boxes(points, distances, -angles)

    patch.setattr("model.decoding.decode_rotated_boxes", mirrored)


@pytest.mark.parametrize("task", TASKS)
def test_learning__scenes_are_learnt_by_heart(task: str, lessons: dict[str, Lesson]) -> None:
    assert learnt(lessons[task]) > LEARNT


@pytest.mark.parametrize(
    ("task", "disturb"),
    [
        ("detect", matches_are_exchanged),
        ("detect", qualities_are_forgotten),
        ("detect", boxes_learn_x_for_y),
        ("detect", boxes_are_decoded_at_half_their_size),
        ("instance", mask_loss_has_no_gradient),
        ("rotated", boxes_learn_x_for_y),
        ("rotated", angles_are_decoded_the_other_way_round),
    ],
)
def test_learning__fails_when_it_is_disturbed(
    task: str, disturb: Disturbance, lessons: dict[str, Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch)

    assert learnt(lessons[task]) < NOT_LEARNT


def test_learning__the_last_stage_is_learnt_too(lessons: dict[str, Lesson]) -> None:
    assert learnt(lessons["detect"], small_epochs=10) > LEARNT


def test_learning__fails_when_the_last_stage_never_comes(
    lessons: dict[str, Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainConfig, "stage_index", lambda *_: 0)

    assert learnt(lessons["detect"], small_epochs=10) < NOT_LEARNT
