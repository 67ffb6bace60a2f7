"""Recipes: the published training of every model of the family, and derived ones, as values.

`rtmdet-m`, `rtmdet-ins-m`: 300 epochs in two stages. `rtmdet-r-m`: 36 epochs in one;
`rtmdet-r-m-100e`: 100 epochs in two. `<model>-finetune`: small sets, from existing weights.
`rtmdet-nano-shapes`, `rtmdet-ins-nano-shapes`, `rtmdet-r-nano-shapes`: the project's own models, of
synthetic scenes. `cspnext-m`: ImageNet pre-training of the backbone. Torch-free.
"""

from dataclasses import replace

from model.config import CLASSIFIERS, VARIANTS, RTMDetConfig
from model.nearest import nearest_hint
from training.config import (
    DataConfig,
    EMAConfig,
    FlipConfig,
    MixUpConfig,
    ModelConfig,
    MosaicConfig,
    OptimizerConfig,
    RotationConfig,
    ScheduleConfig,
    StageConfig,
    TrainConfig,
)

#: Smaller networks underfit what the larger ones need: less is mixed, and images stay larger.
_SMALL = ("nano", "tiny")
_NARROW_SCALES = ("nano", "tiny", "s")

#: Images a step, and the rate for so many: what the published rate comes to at 32 images.
FINETUNE_BATCH = 8
FINETUNE_LR = 0.0005

#: The published average spans 5,000 of 138,000 steps; so it does of however few.
_AVERAGE_IN_PROPORTION = EMAConfig(horizon_share=0.036)

_ALL_FLIPS = FlipConfig(horizontal=0.25, vertical=0.25, diagonal=0.25)


def recipe_names() -> list[str]:
    """Every recipe that there is."""
    return list(_recipes())


def recipe(name: str) -> TrainConfig:
    """The recipe of that name, or a ValueError that names the nearest."""
    recipes = _recipes()
    if name not in recipes:
        raise ValueError(f"unknown recipe '{name}'{nearest_hint(name, recipes)}")
    return recipes[name]


def _recipes() -> dict[str, TrainConfig]:
    recipes: dict[str, TrainConfig] = {}
    for config in VARIANTS.values():
        published = _rotated(config) if config.task == "rotated" else _two_stage(config)
        recipes[config.name] = published
        if config.task == "rotated":
            recipes[f"{config.name}-100e"] = _rotated_two_stage(config)
        recipes[f"{config.name}-finetune"] = _finetune(config)
        if config.name.endswith("-nano"):
            recipes[f"{config.name}-shapes"] = _shapes(config)
    return recipes | {name: _classifier(name) for name in CLASSIFIERS}


def _two_stage(config: RTMDetConfig) -> TrainConfig:
    """300 epochs, mixing until the last 20 (arXiv 2212.07784, section 4; reference configs)."""
    size = config.name.rpartition("-")[2]
    heavy = config.name == "rtmdet-ins-x"
    return TrainConfig(
        recipe=config.name,
        model=_model(config),
        stages=_stages(size),
        data=DataConfig(
            batch_size=16 if heavy else 32,
            min_box_side=1.0 if config.task == "instance" else 0.0,
        ),
        optimizer=OptimizerConfig(
            lr=0.002 if heavy else 0.004, lr_batch_size=128 if heavy else 256
        ),
    )


def _stages(size: str) -> tuple[StageConfig, StageConfig]:
    scales = (0.5, 2.0) if size in _NARROW_SCALES else (0.1, 2.0)
    if size in _SMALL:
        mosaic = MosaicConfig(cache_length=20, random_pop=False)
        mixup = MixUpConfig(cache_length=10, random_pop=False, probability=0.5)
    else:
        mosaic, mixup = MosaicConfig(), MixUpConfig()
    return (
        StageConfig(name="mixing", mosaic=mosaic, mixup=mixup, scale_range=scales),
        StageConfig(name="jitter", scale_range=scales),
    )


def _rotated(config: RTMDetConfig) -> TrainConfig:
    """36 epochs without mixing: fit, flip, rotate."""
    stage = StageConfig(
        name="rotation",
        scale_range=None,
        colour=False,
        flip=_ALL_FLIPS,
        rotation=RotationConfig(),
    )
    return TrainConfig(
        recipe=config.name,
        model=_model(config),
        stages=(stage,),
        data=DataConfig(batch_size=8),
        optimizer=OptimizerConfig(lr=0.00025, lr_batch_size=8),
        schedule=ScheduleConfig(epochs=36, last_stage_epochs=0, evaluate_every=12),
    )


def _rotated_two_stage(config: RTMDetConfig) -> TrainConfig:
    """100 epochs with mixing, the last 10 without."""
    mixing = StageConfig(
        name="mixing",
        mosaic=MosaicConfig(),
        mixup=MixUpConfig(),
        flip=_ALL_FLIPS,
        rotation=RotationConfig(),
    )
    base = _rotated(config)
    return replace(
        base,
        recipe=f"{config.name}-100e",
        stages=(mixing, replace(mixing, name="jitter", mosaic=None, mixup=None)),
        schedule=replace(base.schedule, epochs=100, last_stage_epochs=10, evaluate_every=10),
    )


def _finetune(config: RTMDetConfig) -> TrainConfig:
    """For hundreds to thousands of images and existing weights: everything in proportion."""
    base = _rotated_two_stage(config) if config.task == "rotated" else _two_stage(config)
    return replace(
        base,
        recipe=f"{config.name}-finetune",
        data=replace(base.data, batch_size=FINETUNE_BATCH, keep_images_without_boxes=True),
        # A new class layer has to get somewhere within hundreds of steps of few images.
        optimizer=replace(base.optimizer, lr=FINETUNE_LR, lr_batch_size=FINETUNE_BATCH),
        schedule=replace(
            base.schedule,
            epochs=60,
            last_stage_epochs=10,
            warmup_share=0.05,
            evaluate_every=5,
        ),
        ema=_AVERAGE_IN_PROPORTION,
    )


def _shapes(config: RTMDetConfig) -> TrainConfig:
    """For 10,000 synthetic scenes of 320 pixels (`rtmdet data shapes`), on a CPU.

    The two stages, the warm-up and the average in proportion to few steps. Scenes have shapes of 8
    pixels at all angles already: nothing is turned or shrunk by much, and half of the images are
    not mixed. Box models start at random; the others are meant to start from the box model's
    weights (`model.init`), which have learned to see shapes, and take a seventh of the steps.
    """
    base = _two_stage(config)
    is_first = config.task == "detect"
    mixing = StageConfig(
        name="mixing",
        mosaic=MosaicConfig(cache_length=20, random_pop=False, probability=0.5),
        mixup=MixUpConfig(cache_length=10, random_pop=False, probability=0.15),
        scale_range=(0.6, 1.6),
        flip=_ALL_FLIPS,
    )
    return replace(
        base,
        recipe=f"{config.name}-shapes",
        model=ModelConfig(name=config.name, input_size=(320, 320)),
        stages=(mixing, replace(mixing, name="jitter", mosaic=None, mixup=None)),
        data=replace(base.data, batch_size=8, num_workers=1, min_box_side=4.0),
        optimizer=OptimizerConfig(
            lr=0.002 if is_first else 0.001, lr_batch_size=8, max_grad_norm=35.0
        ),
        schedule=replace(
            base.schedule,
            epochs=20 if is_first else 3,
            last_stage_epochs=8 if is_first else 2,
            warmup_share=0.03,
            evaluate_every=2,
        ),
        ema=_AVERAGE_IN_PROPORTION,
        loss=replace(base.loss, max_masks_per_image=64),
    )


def _classifier(name: str) -> TrainConfig:
    """ImageNet: 300 epochs of random resized crops and flips, cosine from the start."""
    return TrainConfig(
        recipe=name,
        model=ModelConfig(name=name, input_size=(224, 224)),
        stages=(StageConfig(name="crops"),),
        data=DataConfig(batch_size=256),
        optimizer=OptimizerConfig(lr=0.004, lr_batch_size=2048),
        schedule=ScheduleConfig(
            epochs=300,
            last_stage_epochs=0,
            warmup_steps=6250,
            cosine_from=0.0,
            final_lr_factor=0.01,
            evaluate_every=1,
        ),
    )


def _model(config: RTMDetConfig) -> ModelConfig:
    return ModelConfig(name=config.name, input_size=config.input_size)
