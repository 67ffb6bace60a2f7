"""What a training run is told: one frozen value, built by `training.recipes`, torch-free.

Names of fields are what `--set` takes: `--set optimizer.lr=0.002`. Lengths are in epochs unless
the name says steps; sizes are (height, width) in pixels.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

from model.config import CLASSIFIERS, VARIANTS, Task, variant
from model.manifest import valid_input_size

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class MosaicConfig:
    """Cached mosaic: four images around a point of a canvas twice as large as the input.

    `centre_range` is where the point lies, as a share of the input's side. With `random_pop` any
    entry leaves the full cache, otherwise the oldest.
    """

    cache_length: int = 40
    random_pop: bool = True
    probability: float = 1.0
    centre_range: tuple[float, float] = (0.5, 1.5)


@dataclass(frozen=True, kw_only=True)
class MixUpConfig:
    """Cached mix-up: the sample is blended half and half with an earlier one."""

    cache_length: int = 20
    random_pop: bool = True
    probability: float = 1.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    flip_probability: float = 0.5
    max_draws: int = 15


@dataclass(frozen=True, kw_only=True)
class FlipConfig:
    """Probability of each flip; at most one happens, so that they sum to at most 1."""

    horizontal: float = 0.5
    vertical: float = 0.0
    diagonal: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RotationConfig:
    """Rotation about the image's centre, for rotated sets.

    Images with one of `square_classes`, whose annotations follow the axes, are turned by multiples
    of 90 degrees alone.
    """

    probability: float = 0.5
    max_degrees: float = 180.0
    square_classes: tuple[str, ...] = ("storage-tank", "roundabout")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How images become samples in one stage of the schedule.

    `scale_range`: the image is fitted into the input (with a mosaic: into twice the input) times a
    factor drawn from it, then an input-sized window is cut out. None: fitted exactly, no window.
    """

    name: str
    mosaic: MosaicConfig | None = None
    mixup: MixUpConfig | None = None
    scale_range: tuple[float, float] | None = (0.1, 2.0)
    colour: bool = True
    flip: FlipConfig = field(default_factory=FlipConfig)
    rotation: RotationConfig | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read and how.

    `batch_size` counts images per process and forward pass. `cache_mib` bounds what one worker
    keeps decoded for mixing. `max_unreadable` is how many unreadable images a run replaces before
    it stops. Instances whose box in the finished sample is not larger than `min_box_side` pixels
    on both sides are dropped, images with a side below `min_image_side` too, as published.
    """

    batch_size: int = 32
    num_workers: int = 4
    cache_mib: int = 192
    keep_images_without_boxes: bool = False
    min_box_side: float = 0.0
    min_image_side: int = 32
    max_unreadable: int = 20


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. `lr` is for a total batch of `lr_batch_size` and scales with the total batch."""

    lr: float = 0.004
    lr_batch_size: int = 256
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float | None = None
    accumulation_steps: int = 1


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Linear warm-up, flat, then a cosine from `cosine_from` to the end; in steps of the optimizer.

    `warmup_share`, where set, is the warm-up as a share of all steps, at most `warmup_steps`.
    `last_stage_epochs` is how long the last stage of augmentation is; 0 turns it off. Evaluation
    comes every `evaluate_every` epochs, and every epoch in the last stage. `cosine_from` is a
    share of the epochs.
    """

    epochs: int = 300
    last_stage_epochs: int = 20
    warmup_steps: int = 1000
    warmup_share: float | None = None
    warmup_start_factor: float = 1e-5
    cosine_from: float = 0.5
    final_lr_factor: float = 0.05
    evaluate_every: int = 10

    def evaluates_after(self, epochs_done: int) -> bool:
        """Whether an evaluation follows the epoch after which `epochs_done` are done."""
        if epochs_done == 0:
            return False
        in_last_stage = epochs_done > self.epochs - self.last_stage_epochs
        regular = epochs_done % self.evaluate_every == 0
        return in_last_stage or regular or epochs_done == self.epochs


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """Exponential moving average of the weights, which is what is evaluated and kept.

    The weight of a new value after t updates is (1 - momentum) exp(-(1 + t) / gamma) + momentum.
    `horizon_share`, where set, puts 1 / momentum at that share of all steps, and gamma in
    proportion. `repeat_shared` averages a tensor as often as the published network names it.
    """

    momentum: float = 0.0002
    gamma: float = 2000.0
    horizon_share: float | None = None
    repeat_shared: bool = False


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and limits of the losses. A `max_masks_per_image` of None uses every positive."""

    box_weight: float = 2.0
    mask_weight: float = 2.0
    topk: int = 13
    max_masks_per_image: int | None = None
    mask_chunk_mib: int = 256


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the computation runs. `device` None: the GPU where there is one, else the CPU.

    A checkpoint is written so many steps or seconds after the last one, whichever comes first,
    before every evaluation and when the run is stopped; `grace_s` is how long that may take.
    After a loss that is not finite the run stops, or goes back to the last checkpoint and leaves
    the batch out, at most `max_rollbacks` times.
    """

    device: str | None = None
    precision: Precision = "float32"
    channels_last: bool = True
    compile: bool = False
    sync_batch_norm: bool = True
    seed: int = 0
    num_threads: int | None = None
    on_nonfinite: Literal["stop", "rollback"] = "stop"
    max_rollbacks: int = 3
    checkpoint_every_steps: int = 1000
    checkpoint_every_s: float = 600.0
    keep_checkpoints: int = 2
    grace_s: float = 60.0
    log_every_steps: int = 10


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the averaged weights are evaluated: in a process beside the ranks, which never wait.

    `device` None: that of the first rank; cpu where its memory is short. `num_threads` compute on
    a CPU, and as many read images. Where evaluations take longer than the epochs between them, so
    many as `max_waiting` wait for their turn, and then the oldest that waits is left out.
    """

    device: str | None = None
    num_threads: int = 2
    max_waiting: int = 2


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, for which input, and where its weights start.

    `init`: a checkpoint of ours (.safetensors), a model of a repository (NAME/1/model.onnx), a
    published .pth of a detector or of a classifier (then the backbone alone); None starts from
    random weights.
    """

    name: str
    input_size: tuple[int, int]
    init: str | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether this is the pre-training of a backbone."""
        return self.name in CLASSIFIERS

    @property
    def task(self) -> Task | Literal["classify"]:
        """What the network predicts."""
        return "classify" if self.is_classifier else variant(self.name).task


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run. `stages` follow one another; the last begins `last_stage_epochs` before the end.

    Raises ValueError for values that cannot be trained with.
    """

    recipe: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    stages: tuple[StageConfig, ...]
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EMAConfig = EMAConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        if self.model.name not in VARIANTS and self.model.name not in CLASSIFIERS:
            variant(self.model.name)
        valid_input_size(self.model.input_size)
        if not 1 <= len(self.stages) <= 2:
            raise ValueError(f"a run has one or two stages, got {len(self.stages)}")
        _check(self)

    def total_batch_size(self, num_ranks: int) -> int:
        """Images in one step of the optimizer, over all ranks and accumulated batches."""
        return self.data.batch_size * self.optimizer.accumulation_steps * num_ranks

    def stage_of(self, epoch: int) -> StageConfig:
        """The stage of an epoch, counted from 0: a function of the epoch alone."""
        return self.stages[self.stage_index(epoch)]

    def stage_index(self, epoch: int) -> int:
        """0, or 1 in the last stage of two."""
        switch = self.schedule.epochs - self.schedule.last_stage_epochs
        return len(self.stages) - 1 if epoch >= switch else 0


#: Smallest value of settings that must be at least that.
_AT_LEAST = {
    "data.batch_size": 1,
    "data.num_workers": 0,
    "data.cache_mib": 1,
    "data.max_unreadable": 0,
    "optimizer.lr": 0,
    "optimizer.lr_batch_size": 1,
    "optimizer.weight_decay": 0,
    "optimizer.accumulation_steps": 1,
    "schedule.epochs": 1,
    "schedule.last_stage_epochs": 0,
    "schedule.warmup_steps": 0,
    "schedule.evaluate_every": 1,
    "runtime.checkpoint_every_steps": 1,
    "runtime.checkpoint_every_s": 0,
    "runtime.log_every_steps": 1,
    "ema.gamma": 1,
    "evaluation.num_threads": 1,
    "evaluation.max_waiting": 1,
    "loss.topk": 1,
    "loss.mask_chunk_mib": 1,
    "runtime.seed": 0,
    "runtime.max_rollbacks": 0,
    "runtime.keep_checkpoints": 1,
    "runtime.grace_s": 1,
}

#: Settings that are shares or probabilities.
_SHARES = (
    "schedule.warmup_share",
    "schedule.warmup_start_factor",
    "schedule.cosine_from",
    "schedule.final_lr_factor",
    "ema.momentum",
    "ema.horizon_share",
)


def _check(config: TrainConfig) -> None:
    for path, least in _AT_LEAST.items():
        value = setting(config, path)
        if not value >= least:
            raise ValueError(f"{path} must be at least {least}, got {value}")
    for path in _SHARES:
        value = setting(config, path)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{path} must lie between 0 and 1, got {value}")
    if config.optimizer.max_grad_norm is not None and not config.optimizer.max_grad_norm > 0:
        raise ValueError("optimizer.max_grad_norm must be positive, or none")


def setting(config: object, path: str) -> float:
    """The value at a dotted path of field names."""
    value: object = config
    for name in path.split("."):
        assert name in {each.name for each in fields(value)}  # type: ignore[arg-type]
        value = getattr(value, name)
    return value  # type: ignore[return-value]
