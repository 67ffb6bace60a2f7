"""Training a classifier: the pre-training of a backbone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.classifier import CSPNeXtClassifier
from model.durable import copy_into_place
from training.classification.accuracy import PRIMARY_METRIC
from training.classification.loading import ClassificationBatch, ClassificationLoader
from training.classification.losses import classification_loss
from training.classification.saving import save_classifier
from training.config import TrainConfig
from training.data.indexing.image_folders import FolderIndex
from training.distributed import Ranks
from training.drawing import write_name
from training.networks import build_network
from training.sample_pictures import MAX_IMAGES, picture_grid
from training.workloads.base import BatchLosses


class ClassificationWorkload:
    """One rank's share of training a classifier on indexed folders of images."""

    primary_metric = PRIMARY_METRIC

    def __init__(
        self, config: TrainConfig, train: FolderIndex, val: FolderIndex | None, ranks: Ranks
    ) -> None:
        network = build_network(config.model, len(train.classes))
        assert isinstance(network, CSPNeXtClassifier)
        self.network = network
        self._classes = train.classes
        self._loader = ClassificationLoader(
            train, config, rank=ranks.rank, num_ranks=ranks.num_ranks
        )
        self.can_be_evaluated = val is not None

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each rank takes in an epoch."""
        return self._loader.batches_per_epoch

    def batches(self, epoch: int, first_batch: int) -> Iterator[ClassificationBatch]:
        """This rank's batches of an epoch, from `first_batch` on."""
        return self._loader.epoch(epoch, first_batch)

    def losses(self, model: nn.Module, batch: ClassificationBatch) -> BatchLosses:
        """The loss of a batch that is on the model's device."""
        loss = classification_loss(model(batch.images), batch.labels)
        return BatchLosses(loss, {})

    def tensors(self, batches: Sequence[ClassificationBatch]) -> Mapping[str, Tensor]:
        """Images and labels of a step by name."""
        return {
            f"{number}/{name}": tensor
            for number, batch in enumerate(batches)
            for name, tensor in {"images": batch.images, "labels": batch.labels}.items()
        }

    def draw_sample(self, epoch: int) -> NDArray[np.uint8]:
        """The first batch of an epoch with its classes, BGR."""
        batch = next(iter(self.batches(epoch, 0)))
        tiles = [image.copy() for image in batch.images[:MAX_IMAGES].numpy()]
        for tile, label in zip(tiles, batch.labels.tolist(), strict=False):
            write_name(tile, self._classes[label], (0, 0), label)
        return picture_grid(tiles)

    def save(self, network: nn.Module, stem: Path, metrics: Mapping[str, float]) -> None:
        """Write `stem`.pth, which `model.init` of a detector takes."""
        assert isinstance(network, CSPNeXtClassifier)
        save_classifier(network, stem.with_suffix(".pth"), classes=self._classes)

    def publish(self, weights: Path, stem: Path, metrics: Mapping[str, float]) -> None:
        """Write what `save` wrote as `weights` once more, as `stem`; its file has no metrics."""
        copy_into_place(weights.with_suffix(".pth"), stem.with_suffix(".pth"))

    def close(self) -> None:
        """End the worker processes."""
        self._loader.close()
