import json
import subprocess
import sys
from dataclasses import replace

import pytest

from training.config import MosaicConfig, TrainConfig
from training.config_json import SettingError, assignments_of, differences, from_json, to_json
from training.overrides import apply_overrides
from training.recipes import recipe, recipe_names


def changed(*assignments: str, name: str = "rtmdet-tiny") -> TrainConfig:
    return apply_overrides(recipe(name), assignments)


def complaint(*assignments: str, name: str = "rtmdet-tiny") -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller looks at the text)
        changed(*assignments, name=name)
    return str(caught.value)


# ---------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("assignment", "found"),
    [
        ("optimizer.lr=0.002", lambda config: config.optimizer.lr == 0.002),
        ("optimizer.lr=2e-3", lambda config: config.optimizer.lr == 0.002),
        ("optimizer.lr = 1", lambda config: isinstance(config.optimizer.lr, float)),
        ("data.batch_size=16", lambda config: config.data.batch_size == 16),
        ("model.input_size=416x640", lambda config: config.model.input_size == (416, 640)),
        ("model.input_size=416,640", lambda config: config.model.input_size == (416, 640)),
        ("model.input_size=416", lambda config: config.model.input_size == (416, 416)),
        ("model.init=a=b.pth", lambda config: config.model.init == "a=b.pth"),
        ("runtime.compile=true", lambda config: config.runtime.compile is True),
        ("runtime.compile=YES", lambda config: config.runtime.compile is True),
        ("runtime.sync_batch_norm=off", lambda config: config.runtime.sync_batch_norm is False),
        ("runtime.precision=bf16", lambda config: config.runtime.precision == "bf16"),
        ("runtime.num_threads=2", lambda config: config.runtime.num_threads == 2),
        ("optimizer.max_grad_norm=35", lambda config: config.optimizer.max_grad_norm == 35.0),
        ("optimizer.betas=0.8, 0.99", lambda config: config.optimizer.betas == (0.8, 0.99)),
        ("stages.1.scale_range=0.5,2", lambda config: config.stages[1].scale_range == (0.5, 2)),
        ("stages.mixing.scale_range=none", lambda config: config.stages[0].scale_range is None),
        (
            "stages.0.mosaic.cache_length=20",
            lambda config: config.stages[0].mosaic.cache_length == 20,
        ),
        ("stages.mixing.mosaic=none", lambda config: config.stages[0].mosaic is None),
        ("stages.jitter.mosaic=default", lambda config: config.stages[1].mosaic == MosaicConfig()),
        ("stages.jitter.flip.vertical=0.5", lambda config: config.stages[1].flip.vertical == 0.5),
    ],
)
def test_overrides__take_effect(assignment: str, found) -> None:
    assert found(changed(assignment))


def test_overrides__change_nothing_else() -> None:
    config = recipe("rtmdet-tiny")
    wanted = replace(config, optimizer=replace(config.optimizer, lr=0.5))
    assert changed("optimizer.lr=0.5") == wanted
    assert changed() == config


def test_overrides__last_one_counts() -> None:
    assert changed("data.batch_size=2", "data.batch_size=3").data.batch_size == 3


def test_overrides__names_between_commas() -> None:
    config = changed("stages.0.rotation.square_classes=ship, plane", name="rtmdet-r-s")
    assert config.stages[0].rotation is not None
    assert config.stages[0].rotation.square_classes == ("ship", "plane")


def test_overrides__group_is_opened_before_its_settings() -> None:
    config = changed("stages.jitter.mixup=default", "stages.jitter.mixup.probability=0.25")
    assert config.stages[1].mixup is not None
    assert config.stages[1].mixup.probability == 0.25


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lrr=1", "unknown setting 'optimizer.lrr'; did you mean 'optimizer.lr'"),
        ("optimiser.lr=1", "unknown setting 'optimiser.lr'; did you mean 'optimizer.lr'"),
        ("lr=1", "unknown setting 'lr'; did you mean 'optimizer.lr'?"),
        ("batchsize=1", "unknown setting 'batchsize'; did you mean 'data.batch_size'"),
        ("stages.2.colour=no", "did you mean 'stages.mixing.colour' or 'stages.jitter.colour'?"),
        ("stages.mix.mosaic.cache=3", "did you mean 'stages.mixing.mosaic"),
        ("optimizer.lr.x=1", "unknown setting 'optimizer.lr.x'; did you mean 'optimizer.lr'"),
        ("q=1", "unknown setting 'q'; there are: model, data, stages, optimizer, schedule, ema"),
        ("data.zzzzzz=1", "; there are: data.batch_size, data.num_workers,"),
        ("optimizer.lr", "'optimizer.lr' sets nothing: write it as key=value, such as optimizer"),
        ("=3", "'=3' sets nothing"),
        ("optimizer.lr=fast", "optimizer.lr takes a number (for example optimizer.lr="),
        ("optimizer.lr=nan", "takes a number"),
        ("optimizer.lr=", "takes a number (for example optimizer.lr=0.5), not ''"),
        ("optimizer.lr=none", "takes a number"),
        ("data.batch_size=1.5", "data.batch_size takes a whole number (for example data.batch"),
        ("runtime.compile=2", "runtime.compile takes true or false"),
        ("runtime.precision=fp16", "takes one of float32, bf16"),
        ("optimizer.max_grad_norm=x", "takes a number, or none (for example"),
        ("optimizer.betas=0.9", "takes two numbers with a comma between them"),
        ("model.input_size=640x640x3", "takes height x width in pixels, or one number for both"),
        ("model.init=", "takes a text, or none"),
        ("recipe=rtmdet-s", "chosen with --recipe"),
        ("stages.jitter.mosaic.probability=1", "set stages.jitter.mosaic=default before it"),
        ("stages.mixing.mosaic=yes", "set it to 'default' or 'none', or one of its settings"),
        ("model=rtmdet-s", "model is a group, set what is in it one by one: model.name, model.inp"),
        ("stages=none", "is a group, set what is in it one by one: stages.mixing, stages.jitter"),
        ("optimizer.lr=-1", "optimizer.lr must be at least 0, got -1.0"),
        ("model.input_size=100", "input size 100x100: both sides must be multiples of 32"),
    ],
)
def test_overrides__say_what_to_do_instead(assignment: str, message: str) -> None:
    found = complaint(assignment)
    assert message in found
    assert "\n" not in found


# ------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize("name", recipe_names())
def test_json__of_a_recipe_comes_back_equal(name: str) -> None:
    config = recipe(name)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_json__of_a_changed_recipe_comes_back_equal() -> None:
    config = changed("model.init=x.pth", "optimizer.lr=0.1", "stages.mixing.mosaic=none")
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_json__unknown_setting_is_named() -> None:
    tree = to_json(recipe("rtmdet-s"))
    tree["stages"][1]["flip"]["sideways"] = 1
    with pytest.raises(SettingError, match=r"^stages\.1\.flip\.sideways is no setting"):
        from_json(tree)


def test_json__missing_setting_is_named() -> None:
    tree = to_json(recipe("rtmdet-s"))
    del tree["optimizer"]["lr"]
    with pytest.raises(SettingError, match=r"^optimizer\.lr is missing"):
        from_json(tree)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("data", "batch_size", "16"),
        ("data", "batch_size", True),
        ("data", "batch_size", None),
        ("optimizer", "lr", True),
        ("optimizer", "lr", float("nan")),
        ("optimizer", "betas", [0.9]),
        ("optimizer", "betas", 0.9),
        ("runtime", "precision", "fp16"),
        ("runtime", "compile", 1),
    ],
)
def test_json__value_of_another_type_is_refused(group: str, name: str, value: object) -> None:
    tree = to_json(recipe("rtmdet-s"))
    tree[group][name] = value
    with pytest.raises(SettingError, match=rf"^{group}\.{name} "):
        from_json(tree)


@pytest.mark.parametrize("tree", [None, [], "x", {"model": 3}])
def test_json__that_is_no_configuration_is_refused(tree: object) -> None:
    with pytest.raises(SettingError):
        from_json(tree)


# ----------------------------------------------------------------------------------- differences


def test_differences__one_line_for_each() -> None:
    other = changed("optimizer.lr=0.002", "stages.mixing.mosaic.cache_length=7", "model.init=a.pth")
    assert differences(recipe("rtmdet-tiny"), other) == [
        "model.init: none -> a.pth",
        "stages.mixing.mosaic.cache_length: 20 -> 7",
        "optimizer.lr: 0.004 -> 0.002",
    ]


def test_differences__group_that_is_gone() -> None:
    other = changed("stages.mixing.mixup=none")
    (line,) = differences(recipe("rtmdet-tiny"), other)
    assert line.startswith("stages.mixing.mixup: (cache_length=10, random_pop=false, ")
    assert line.endswith(") -> none")


def test_differences__other_number_of_stages() -> None:
    lines = differences(recipe("rtmdet-r-s"), recipe("rtmdet-r-s-100e"))
    assert any(line.startswith("stages: (name=rotation, ") for line in lines)


@pytest.mark.parametrize("name", ["rtmdet-tiny", "cspnext-m"])
def test_differences__none_between_equals(name: str) -> None:
    assert differences(recipe(name), from_json(to_json(recipe(name)))) == []


def test_overrides__need_no_torch() -> None:
    code = "import sys, training.overrides; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["rtmdet-ins-x", "rtmdet-r-tiny", "rtmdet-r-m-100e", "cspnext-s"])
def test_assignments_of__give_the_configuration_back(name: str) -> None:
    config = recipe(name)
    assert apply_overrides(config, assignments_of(config)) == config


def test_assignments_of__open_groups_that_the_recipe_is_without() -> None:
    config = apply_overrides(recipe("rtmdet-nano"), ["stages.jitter.mosaic=default"])
    assert apply_overrides(recipe("rtmdet-nano"), assignments_of(config)) == config


def test_assignments_of__carry_what_was_set() -> None:
    config = apply_overrides(recipe("rtmdet-s"), ["stages.mixing.mosaic=none", "data.batch_size=3"])
    kept = [each for each in assignments_of(config) if "batch_size" in each or "mosaic" in each]
    assert "stages.mixing.mosaic=none" in kept
    assert apply_overrides(recipe("rtmdet-s"), assignments_of(config)) == config
