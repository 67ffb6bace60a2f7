"""How good a network is on annotated images: whatever runs it, candidates become detections through
the post-processing that serves, and these are compared with what is annotated. Torch-free.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.config import Task
from model.manifest import DEFAULT_THRESHOLDS, Thresholds
from model.postprocess import PUBLISHED_SETTINGS, SERVING_SETTINGS, PostprocessSettings
from training.data.indexing.detection_index import EvaluationAnnotations
from training.data.sampling.images import UnreadableImage
from training.evaluation.average_precision import Metrics, average_precision, primary_metric
from training.evaluation.comparison import Comparison, compare
from training.evaluation.inference import ImageFiles
from training.evaluation.instances import Found, Truth
from training.evaluation.pipeline import Outcome, Pipeline
from training.evaluation.predictors.base import Predictor

__all__ = ["Evaluated", "EvaluationSettings", "Evaluator", "Metrics", "primary_metric"]

#: Which post-processing: that of the published figures, or exactly that of serving.
Postprocessing = Literal["published", "serving"]


class EvaluatedImages(ImageFiles, Protocol):
    """Images with all their annotations; a `DetectionIndex` is one."""

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def evaluation_annotations(self, position: int) -> EvaluationAnnotations:
        """What predictions for the image are compared with."""
        ...


class Windows(ImageFiles, Protocol):
    """Parts of large images, which a network sees as images of their own; `TiledImages` is one."""

    def windows_in(self, image: int) -> Sequence[int]:
        """The positions of an image's windows."""
        ...

    def merged(self, found: Found) -> Found:
        """Detections in windows as detections in the images."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a network is evaluated.

    `input_size` is (height, width); `batch_size` counts images; `num_threads` read images and
    assemble detections. `max_images`, where set, takes so many, spread over the whole set.
    `thresholds` are those of serving, by default what a new model gets. An image that cannot be
    read ends the evaluation, unless `skips_unreadable`.
    """

    task: Task
    input_size: tuple[int, int]
    batch_size: int = 8
    num_threads: int = 2
    max_images: int | None = None
    postprocess: Postprocessing = "published"
    thresholds: Thresholds | None = None
    skips_unreadable: bool = False

    @property
    def postprocess_settings(self) -> PostprocessSettings:
        """The values that `postprocess` stands for."""
        if self.postprocess == "published":
            return PUBLISHED_SETTINGS[self.task]
        thresholds = self.thresholds or DEFAULT_THRESHOLDS[self.task]
        return replace(
            SERVING_SETTINGS[self.task],
            score_threshold=thresholds.score,
            iou_threshold=thresholds.iou,
            max_detections=thresholds.max_detections,
        )


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What came out, and all that was compared for it.

    `images` of `truth` and of `found` count through `positions`: the images of the set that were
    evaluated, ascending. `unreadable` has a line for each image that was skipped.
    """

    metrics: Metrics
    comparison: Comparison
    truth: Truth
    found: Found
    positions: Sequence[int]
    unreadable: tuple[str, ...] = ()


class Evaluator:
    """Evaluates on one data set, again and again.

    With `windows` of the images the network sees these. Raises ValueError if there is nothing to
    be found in the images.
    """

    def __init__(
        self,
        images: EvaluatedImages,
        settings: EvaluationSettings,
        windows: Windows | None = None,
    ) -> None:
        self._images = images
        self._settings = settings
        self._windows = windows
        self._positions = _spread(len(images), settings.max_images)
        # Kept: polygons become masks, which takes time.
        self._truth: tuple[list[int], Truth] | None = None
        if all(_ignored(images.evaluation_annotations(each)).all() for each in self._positions):
            raise ValueError(
                "no validation image has an instance that is to be found; annotate some, or train "
                "without validation images"
            )

    def evaluate(
        self,
        predictor: Predictor,
        watch: Callable[[int, int], bool] = lambda _done, _total: True,
    ) -> Evaluated | None:
        """What `predictor` finds, compared with what is annotated.

        `watch` is called after each batch, with the images (or windows) done and in all; where it
        says that this is to stop, the result is None. Raises UnreadableImage, unless such are
        skipped.
        """
        settings, seen = self._settings, self._seen()
        assert (predictor.task, predictor.input_size) == (settings.task, settings.input_size)
        pipeline = Pipeline(
            self._images if self._windows is None else self._windows,
            predictor,
            settings.postprocess_settings,
            batch_size=settings.batch_size,
            num_threads=settings.num_threads,
        )
        outcomes: list[Outcome] = []
        with closing(pipeline.run(seen)) as batches:
            for batch in batches:
                outcomes += batch
                for outcome in batch:
                    if isinstance(outcome, UnreadableImage) and not settings.skips_unreadable:
                        raise outcome
                if not watch(len(outcomes), len(seen)):
                    return None
        return self._compared(dict(zip(seen, outcomes, strict=True)))

    def _seen(self) -> list[int]:
        """Positions of what the network sees."""
        return [each for position in self._positions for each in self._parts_of(position)]

    def _parts_of(self, position: int) -> Sequence[int]:
        return [position] if self._windows is None else self._windows.windows_in(position)

    def _compared(self, outcomes: Mapping[int, Outcome]) -> Evaluated:
        """What was found, by the positions of what the network has seen, with the annotations."""
        positions: list[int] = []
        parts: list[Found] = []
        for position in self._positions:
            of_image = [outcomes[each] for each in self._parts_of(position)]
            found_there = [each for each in of_image if isinstance(each, Found)]
            if len(found_there) == len(of_image):
                positions.append(position)
                parts += found_there
        # Windows of one image have one reason.
        problems = [str(each) for each in outcomes.values() if isinstance(each, UnreadableImage)]
        unreadable = tuple(dict.fromkeys(problems))
        if not positions:
            raise UnreadableImage(f"no image can be read; the first: {unreadable[0]}")
        found = Found.joined(parts)
        if self._windows is not None:
            found = self._windows.merged(found)
        found = replace(found, images=np.searchsorted(positions, found.images))
        truth, classes = self._truth_at(positions), self._images.classes
        comparison = compare(self._settings.task, truth, found, len(classes))
        metrics = average_precision(comparison, classes)
        return Evaluated(metrics, comparison, truth, found, positions, unreadable)

    def _truth_at(self, positions: list[int]) -> Truth:
        if self._truth is None or self._truth[0] != positions:
            self._truth = positions, truth_of(self._images, positions)
        return self._truth[1]


def truth_of(images: EvaluatedImages, positions: Sequence[int]) -> Truth:
    """All annotations of the images at those positions, at least one image, packed.

    `images` of the result counts through `positions`.
    """
    annotations = [images.evaluation_annotations(position) for position in positions]
    masks = [each.masks for each in annotations]
    return Truth(
        image_sizes=np.array([images.image_size(position) for position in positions]),
        images=np.repeat(np.arange(len(annotations)), [len(each) for each in annotations]),
        labels=np.concatenate([each.labels for each in annotations]),
        boxes=np.concatenate([each.boxes for each in annotations]),
        areas=np.concatenate([each.areas for each in annotations]),
        ignored=np.concatenate([_ignored(each) for each in annotations]),
        masks=None if masks[0] is None else tuple(chain(*filter(None, masks))),
    )


def _spread(num_images: int, max_images: int | None) -> list[int]:
    """Positions of the images that are evaluated, in order."""
    if max_images is None or max_images >= num_images:
        return list(range(num_images))
    return [index * num_images // max_images for index in range(max_images)]


def _ignored(annotations: EvaluationAnnotations) -> NDArray[np.bool_]:
    return annotations.is_crowd | annotations.is_difficult
