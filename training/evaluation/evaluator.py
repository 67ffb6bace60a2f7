"""How good a network is on the validation images: every rank detects in its share of them, all
detections are gathered, and the first rank compares them with what is annotated.

Ranks go from batch to batch together, so that none waits for one that failed or was stopped.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from model.config import Task
from training.data.indexing.detection_index import EvaluationAnnotations
from training.data.sampling.images import UnreadableImage
from training.evaluation.average_precision import Metrics, average_precision, primary_metric
from training.evaluation.inference import (
    BatchRunner,
    ImageFiles,
    NetworkInput,
    detections,
    read_input,
)
from training.evaluation.instances import Found, Truth
from training.evaluation.together import RankGroup, all_go_on

__all__ = ["EvaluationSettings", "Evaluator", "Metrics", "primary_metric"]


class EvaluatedImages(ImageFiles, Protocol):
    """Images with all their annotations; a `DetectionIndex` is one."""

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def evaluation_annotations(self, position: int) -> EvaluationAnnotations:
        """What predictions for the image are compared with."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a network is evaluated.

    `input_size` is (height, width); `batch_size` counts images per rank; `num_threads` read images
    and assemble detections. `max_images`, where set, takes so many, spread over the whole set.
    """

    task: Task
    input_size: tuple[int, int]
    batch_size: int = 8
    num_threads: int = 2
    precision: Literal["float32", "bf16"] = "float32"
    max_images: int | None = None


class Evaluator:
    """Evaluates on one data set, again and again; all ranks make one each.

    Raises ValueError if there is nothing to be found in the images.
    """

    def __init__(
        self, images: EvaluatedImages, settings: EvaluationSettings, ranks: RankGroup
    ) -> None:
        self._images = images
        self._settings = settings
        self._ranks = ranks
        self._positions = _spread(len(images), settings.max_images)
        self._run = BatchRunner(
            settings.input_size, ranks.device, bf16=settings.precision == "bf16"
        )
        if all(_ignored(images.evaluation_annotations(each)).all() for each in self._positions):
            raise ValueError(
                "no validation image has an instance that is to be found; annotate some, or train "
                "without validation images"
            )

    def evaluate(
        self,
        network: nn.Module,
        watch: Callable[[int, int], bool] = lambda _done, _total: True,
    ) -> Metrics | None:
        """The metrics of `network`, the same on every rank; all ranks call it together.

        `watch` is called on every rank after each round of batches, with the images done and in
        all; where it says on any rank that this is to stop, the result is None.

        Raises UnreadableImage on every rank if any of them cannot read an image.
        """
        total = len(self._positions)
        per_round = self._settings.batch_size * self._ranks.num_ranks
        parts = [_nothing(self._settings.task)]
        with _in_evaluation_mode(network), closing(self._detected(network)) as batches:
            for done in range(per_round, total + per_round, per_round):
                problem = None
                try:
                    parts += next(batches, [])
                except UnreadableImage as error:
                    problem = str(error)
                goes_on = watch(min(done, total), total)
                if not all_go_on(self._ranks, problem, goes_on=goes_on):
                    return None
            parts += [found for batch in batches for found in batch]
        found = Found.joined(self._ranks.gather(Found.joined(parts)))
        metrics = self._compared(found) if self._ranks.rank == 0 else None
        metrics = self._ranks.from_first(metrics)
        assert metrics is not None
        return metrics

    def _detected(self, network: nn.Module) -> Generator[list[Found], None, None]:
        """Detections in this rank's images, batch after batch. Raises UnreadableImage.

        Those of a batch come one batch late: they are assembled while the network is at the next.
        """
        settings = self._settings
        mine = self._positions[self._ranks.rank :: self._ranks.num_ranks]
        size = settings.batch_size
        batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        if not batches:
            return
        with ThreadPoolExecutor(settings.num_threads) as pool:

            def read(batch: Sequence[int]) -> list[Future[NetworkInput]]:
                return [
                    pool.submit(read_input, self._images, position, settings.input_size)
                    for position in batch
                ]

            try:
                ahead = read(batches[0])
                unfinished: list[Future[Found]] = []
                for following in [*batches[1:], []]:
                    reading, ahead = ahead, read(following)
                    inputs = [future.result() for future in reading]
                    dense = self._run(network, inputs)
                    yield [future.result() for future in unfinished]
                    unfinished = [
                        pool.submit(detections, settings.task, *each)
                        for each in zip(dense, inputs, strict=True)
                    ]
                yield [future.result() for future in unfinished]
            finally:
                pool.shutdown(cancel_futures=True)

    def _compared(self, found: Found) -> Metrics:
        places = np.searchsorted(self._positions, found.images)
        return average_precision(
            self._settings.task, self._truth, replace(found, images=places), self._images.classes
        )

    @cached_property
    def _truth(self) -> Truth:
        # Kept: polygons become masks, which takes time.
        return truth_of(self._images, self._positions)


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


def _nothing(task: Task) -> Found:
    return Found(
        images=np.zeros(0, np.int64),
        labels=np.zeros(0, np.int64),
        scores=np.zeros(0, np.float32),
        boxes=np.zeros((0, 5 if task == "rotated" else 4), np.float32),
        masks=() if task == "instance" else None,
    )


@contextmanager
def _in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
