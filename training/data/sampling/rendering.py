"""A draft becomes a sample.

The result is a function of (configuration, data set, draft) alone; what a renderer remembers of
earlier drafts changes nothing but the speed.
"""

import math

import numpy as np
from numpy.typing import NDArray

from training.config import RotationConfig, StageConfig, TrainConfig
from training.data.annotations import AnnotatedImages, Annotations
from training.data.sampling.colours import draw_shifts
from training.data.sampling.drafts import Draft
from training.data.sampling.images import Memory, Pixels, UnreadableImage, read_image
from training.data.sampling.mixing import mixed
from training.data.sampling.painting import paint
from training.data.sampling.placements import Layout, draw_layout
from training.data.sampling.placing import ROTATED, place_annotations
from training.data.sampling.samples import Instances, Sample, joined

#: How often an image is replaced by another because it cannot be read, or because nothing of its
#: instances is left in the window.
_MAX_TRIES = 20

#: Keys of random numbers, beside that of `training.data.sampling.drafts.PLANNING`.
_RENDERING, _MIXING = 2, 3

_MIB = 2**20


class Renderer:
    """Renders drafts of one data set; remembers what mixing is going to need again.

    `positions` are the images that a replacement is drawn from.
    """

    def __init__(
        self, data: AnnotatedImages, positions: NDArray[np.int64], config: TrainConfig
    ) -> None:
        self._data = data
        self._positions = positions
        self._config = config
        self._square_labels = [
            frozenset(_labels_of(data.classes, stage.rotation)) for stage in config.stages
        ]
        images, samples = _shares(config)
        self._images: Memory[Pixels] = Memory(images)
        self._samples: Memory[Sample] = Memory(samples)

    @property
    def num_bytes(self) -> int:
        """What is remembered now."""
        return self._images.num_bytes + self._samples.num_bytes

    def render(self, draft: Draft) -> Sample:
        """The finished sample.

        Raises UnreadableImage when neither the images nor any replacement can be read.
        """
        stage = self._config.stages[draft.stage]
        sample = self._unmixed(draft.without_partners())
        for candidate in draft.partners:
            partner = self._unmixed(candidate)
            if len(partner.instances.labels):
                assert stage.mixup is not None
                rng = np.random.default_rng((draft.seed, _MIXING))
                sample = mixed(sample, partner, stage.mixup, rng)
                break
        kept = _large_enough(sample.instances, self._config.data.min_box_side)
        return sample._replace(instances=sample.instances.where(kept))

    def _unmixed(self, draft: Draft) -> Sample:
        remembered = self._samples.get(draft)
        if remembered is not None:
            return remembered
        sample = self._rendered(draft)
        if self._config.stages[draft.stage].mixup is not None:
            sample.image.flags.writeable = False
            self._samples.put(draft, sample, sample.num_bytes)
        return sample

    def _rendered(self, draft: Draft) -> Sample:
        positions = [draft.position, *draft.tiles]
        problems: list[str] = []
        problem = ""
        for attempt in range(_MAX_TRIES):
            rng = np.random.default_rng((draft.seed, _RENDERING, attempt))
            layout, instances, lost = self._laid_out(draft.stage, positions, rng)
            if lost and attempt < _MAX_TRIES - 1:
                positions[0] = self._replacement(rng)
                continue
            images, problem = self._read(draft.stage, positions)
            if problem:
                # Another image of a mosaic is reported by the draft whose first image it is.
                problems += [] if images else [problem]
                positions[len(images)] = self._replacement(rng)
                continue
            shifts = draw_shifts(rng) if self._config.stages[draft.stage].colour else None
            picture = paint(layout, images, self._config.model.input_size, shifts)
            return Sample(picture, instances, tuple(problems))
        raise UnreadableImage(
            f"no readable image found in {_MAX_TRIES} tries, the last one: {problem}"
        )

    def _laid_out(
        self, stage_index: int, positions: list[int], rng: np.random.Generator
    ) -> tuple[Layout, Instances, bool]:
        """Geometry and instances, and whether the sample has to be drawn again.

        That is so when its images have instances and none is left, unless masks are trained: then
        a window of background is kept, as published.
        """
        stage = self._config.stages[stage_index]
        annotations = [self._data.annotations(position) for position in positions]
        sizes = tuple(self._data.image_size(position) for position in positions)
        turn_rad = _draw_turn(stage, annotations, self._square_labels[stage_index], rng)
        layout = draw_layout(stage, sizes, self._config.model.input_size, turn_rad, rng)
        instances = joined(
            [
                place_annotations(each, placement, layout)
                for each, placement in zip(annotations, layout.placements, strict=True)
            ]
        )
        left = len(instances.labels) or self._config.model.task == "instance"
        return layout, instances, not left and any(map(len, annotations))

    def _read(self, stage_index: int, positions: list[int]) -> tuple[list[Pixels], str]:
        """The images up to the first that cannot be read, and why it cannot."""
        images: list[Pixels] = []
        for position in positions:
            image = self._images.get(position)
            if image is None:
                try:
                    image = read_image(
                        self._data.image_path(position),
                        self._data.image_size(position),
                        upright=self._data.are_upright,
                    )
                except UnreadableImage as problem:
                    return images, str(problem)
                if self._config.stages[stage_index].mosaic is not None:
                    self._images.put(position, image, image.nbytes)
            images.append(image)
        return images, ""

    def _replacement(self, rng: np.random.Generator) -> int:
        return int(self._positions[rng.integers(len(self._positions))])


def _draw_turn(
    stage: StageConfig,
    annotations: list[Annotations],
    square_labels: frozenset[int],
    rng: np.random.Generator,
) -> float:
    """The angle in radians; 0 for none."""
    rotation = stage.rotation
    if rotation is None or rng.random() >= rotation.probability:
        return 0.0
    if any(not square_labels.isdisjoint(each.labels.tolist()) for each in annotations):
        return math.radians(float(rng.choice([90, 180, -90, -180])))
    return math.radians(float(rng.uniform(-rotation.max_degrees, rotation.max_degrees)))


def _labels_of(classes: tuple[str, ...], rotation: RotationConfig | None) -> set[int]:
    if rotation is None:
        return set()
    return {label for label, name in enumerate(classes) if name in rotation.square_classes}


def _large_enough(instances: Instances, min_side: float) -> NDArray[np.bool_]:
    boxes = instances.boxes
    # Rotated boxes hold their sides; upright ones lie between their corners.
    sides = boxes[:, 2:4] if boxes.shape[1] == ROTATED else boxes[:, 2:4] - boxes[:, :2]
    return np.all(sides > min_side, axis=1)


def _shares(config: TrainConfig) -> tuple[int, int]:
    """Bytes for decoded images and for samples, in proportion to the published caches."""
    total = config.data.cache_mib * _MIB
    mosaics = [stage.mosaic.cache_length for stage in config.stages if stage.mosaic is not None]
    mixups = [stage.mixup.cache_length for stage in config.stages if stage.mixup is not None]
    images, samples = sum(mosaics), sum(mixups)
    share = total * images // max(1, images + samples)
    return share, total - share
