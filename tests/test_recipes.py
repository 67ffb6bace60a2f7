"""The recipes say what was published, and derived ones what is in proportion."""

import pytest

from model.config import VARIANTS
from model.nearest import nearest_hint
from training.config import FlipConfig
from training.recipes import FINETUNE_BATCH, recipe, recipe_names


def test_recipe__of_every_model() -> None:
    assert set(VARIANTS) <= set(recipe_names())
    for name in recipe_names():
        assert recipe(name).recipe == name


def test_recipe__published_two_stage() -> None:
    config = recipe("rtmdet-m")
    assert (config.schedule.epochs, config.schedule.last_stage_epochs) == (300, 20)
    assert (config.optimizer.lr, config.optimizer.lr_batch_size) == (0.004, 256)
    mixing, jitter = config.stages
    assert mixing.mosaic is not None
    assert mixing.mosaic.cache_length == 40
    assert mixing.mixup is not None
    assert mixing.mixup.cache_length == 20
    assert mixing.scale_range == jitter.scale_range == (0.1, 2.0)
    assert jitter.mosaic is None
    assert jitter.mixup is None


def test_recipe__tiny_mixes_less() -> None:
    mixing = recipe("rtmdet-ins-tiny").stages[0]
    assert mixing.mosaic is not None
    assert (mixing.mosaic.cache_length, mixing.mosaic.random_pop) == (20, False)
    assert mixing.mixup is not None
    assert (mixing.mixup.cache_length, mixing.mixup.probability) == (10, 0.5)
    assert mixing.scale_range == (0.5, 2.0)


def test_recipe__largest_instance_model_has_half_the_batch() -> None:
    config = recipe("rtmdet-ins-x")
    assert (config.data.batch_size, config.optimizer.lr) == (16, 0.002)
    assert config.optimizer.lr_batch_size == 128


def test_recipe__rotated() -> None:
    config = recipe("rtmdet-r-l")
    assert (config.schedule.epochs, len(config.stages)) == (36, 1)
    assert (config.optimizer.lr, config.optimizer.lr_batch_size) == (0.00025, 8)
    assert config.stages[0].scale_range is None
    assert config.stages[0].flip == FlipConfig(horizontal=0.25, vertical=0.25, diagonal=0.25)
    two_stage = recipe("rtmdet-r-l-100e")
    assert two_stage.stage_index(89) == 0
    assert two_stage.stage_index(90) == 1


@pytest.mark.parametrize("model", ["rtmdet-s", "rtmdet-ins-tiny", "rtmdet-r-m"])
def test_recipe__finetune_is_in_proportion_to_few_images(model: str) -> None:
    published, config = recipe(model), recipe(f"{model}-finetune")
    assert config.model == published.model
    assert config.data.batch_size == config.optimizer.lr_batch_size == FINETUNE_BATCH
    assert config.data.keep_images_without_boxes
    assert config.schedule.warmup_share == 0.05
    assert config.ema.horizon_share == 0.036
    assert [stage.name for stage in config.stages] == ["mixing", "jitter"]


def test_recipe__shapes_are_for_every_nano_model() -> None:
    nano = {name for name in VARIANTS if name.endswith("-nano")}
    assert len(nano) == 3
    shapes = {name for name in recipe_names() if name.endswith("-shapes")}
    assert shapes == {f"{name}-shapes" for name in nano}


@pytest.mark.parametrize("task", ["", "-ins", "-r"])
def test_recipe__shapes_end_without_mixing(task: str) -> None:
    config = recipe(f"rtmdet{task}-nano-shapes")
    assert config.model.name == f"rtmdet{task}-nano"
    assert config.model.input_size == (320, 320)
    last = config.stage_of(config.schedule.epochs - 1)
    assert (last.name, last.mosaic, last.mixup) == ("jitter", None, None)
    assert config.stage_of(0).mosaic is not None


def test_recipe__shapes_take_fewer_steps_from_the_weights_of_boxes() -> None:
    boxes, masks = recipe("rtmdet-nano-shapes"), recipe("rtmdet-ins-nano-shapes")
    assert masks.schedule.epochs < boxes.schedule.epochs
    assert masks.schedule == recipe("rtmdet-r-nano-shapes").schedule


def test_recipe__unknown_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'rtmdet-tiny'"):
        recipe("rtmdet-tinny")


def test_nearest_hint__nothing_near_lists_all() -> None:
    assert nearest_hint("yolo", ["rtmdet-s", "rtmdet-m"]) == "; there are: rtmdet-s, rtmdet-m"


@pytest.mark.parametrize(("epoch", "stage"), [(0, "mixing"), (279, "mixing"), (280, "jitter")])
def test_stage_of__is_a_function_of_the_epoch(epoch: int, stage: str) -> None:
    assert recipe("rtmdet-s").stage_of(epoch).name == stage
