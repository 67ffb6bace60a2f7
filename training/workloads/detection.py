"""Training a detector: boxes, instance masks or rotated boxes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoints.checkpoint_files import save_checkpoint
from model.durable import copy_into_place
from model.manifest import Source, read_checkpoint_manifest, write_manifest
from model.rtmdet import RTMDet
from training.config import TrainConfig
from training.criterion import Criterion
from training.data.indexing.detection_index import DetectionIndex
from training.data.sampling.loading import TrainingLoader
from training.distributed import Ranks
from training.evaluation.average_precision import primary_metric
from training.networks import build_network
from training.run.nonfinite import batch_tensors
from training.sample_pictures import draw_batch
from training.targets import DetectionBatch
from training.workloads.base import BatchLosses
from training.workloads.evaluation import detection_evaluator


class DetectionWorkload:
    """One rank's share of training a detector on indexed data."""

    def __init__(
        self,
        config: TrainConfig,
        train: DetectionIndex,
        val: DetectionIndex | None,
        ranks: Ranks,
        *,
        source: Source,
    ) -> None:
        network = build_network(config.model, len(train.classes))
        assert isinstance(network, RTMDet)
        self.network = network
        self.primary_metric = primary_metric(network.config.task)
        self._config = config
        self._classes = train.classes
        self._source = source
        self._criterion = Criterion(
            network.config,
            config.loss,
            sum_over_ranks=ranks.sum,
            num_ranks=ranks.num_ranks,
        )
        self._loader = TrainingLoader(train, config, rank=ranks.rank, num_ranks=ranks.num_ranks)
        self.can_be_evaluated = val is not None
        if val is not None:
            # What cannot be evaluated shows before anything is trained.
            detection_evaluator(config, val)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each rank takes in an epoch."""
        return self._loader.batches_per_epoch

    def batches(self, epoch: int, first_batch: int) -> Iterator[DetectionBatch]:
        """This rank's batches of an epoch, from `first_batch` on."""
        return self._loader.epoch(epoch, first_batch)

    def losses(self, model: nn.Module, batch: DetectionBatch) -> BatchLosses:
        """The losses of a batch that is on the model's device."""
        terms = self._criterion(model(batch.images), batch.targets)
        return BatchLosses(terms.total, terms.scalars())

    def tensors(self, batches: Sequence[DetectionBatch]) -> Mapping[str, Tensor]:
        """Images and targets of a step by name."""
        return {
            f"{number}/{name}": tensor
            for number, batch in enumerate(batches)
            for name, tensor in batch_tensors(batch).items()
        }

    def draw_sample(self, epoch: int) -> NDArray[np.uint8]:
        """The first batch of an epoch with what is to be found in it, BGR."""
        return draw_batch(next(iter(self.batches(epoch, 0))), self._classes)

    def save(self, network: nn.Module, stem: Path, metrics: Mapping[str, float]) -> None:
        """Write `stem`.safetensors and its manifest, which `rtmdet export` takes."""
        assert isinstance(network, RTMDet)
        save_checkpoint(
            network,
            stem.with_suffix(".safetensors"),
            classes=self._classes,
            source=self._source,
            input_size=self._config.model.input_size,
            metrics=metrics,
        )

    def publish(self, weights: Path, stem: Path, metrics: Mapping[str, float]) -> None:
        """Write what `save` wrote as `weights` once more, as `stem`, now that it has `metrics`."""
        copy_into_place(weights.with_suffix(".safetensors"), stem.with_suffix(".safetensors"))
        manifest = read_checkpoint_manifest(weights.with_suffix(".json"))
        measured = manifest.model_copy(update={"metrics": dict(metrics)})
        write_manifest(measured, stem.with_suffix(".json"))

    def close(self) -> None:
        """End the worker processes."""
        self._loader.close()
