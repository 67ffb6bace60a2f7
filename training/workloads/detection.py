"""Training a detector: boxes, instance masks or rotated boxes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoints.checkpoint_files import save_checkpoint
from model.manifest import Source
from model.rtmdet import RTMDet
from training.config import TrainConfig
from training.criterion import Criterion
from training.data.indexing.detection_index import DetectionIndex
from training.data.sampling.loading import TrainingLoader
from training.distributed import Ranks
from training.evaluation.evaluator import EvaluationSettings, Evaluator, primary_metric
from training.evaluation.predictors.torch_network import torch_predictor
from training.networks import build_network
from training.run.nonfinite import batch_tensors
from training.sample_pictures import draw_batch
from training.targets import DetectionBatch
from training.workloads.base import BatchLosses, Watch

#: Images that are evaluated at once; more gain nothing.
_MAX_EVALUATED = 16


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
        self._ranks = ranks
        self._criterion = Criterion(
            network.config,
            config.loss,
            sum_over_ranks=ranks.sum,
            num_ranks=ranks.num_ranks,
        )
        self._loader = TrainingLoader(train, config, rank=ranks.rank, num_ranks=ranks.num_ranks)
        self._evaluator = None
        if val is not None:
            settings = EvaluationSettings(
                task=network.config.task,
                input_size=config.model.input_size,
                batch_size=min(config.data.batch_size, _MAX_EVALUATED),
                num_threads=max(config.data.num_workers, 1),
            )
            # The first rank evaluates, and the others wait for it.
            self._evaluator = Evaluator(val, settings) if ranks.is_first else None
        self._can_be_evaluated = val is not None

    @property
    def can_be_evaluated(self) -> bool:
        """Whether there are validation images."""
        return self._can_be_evaluated

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

    def evaluate(self, network: nn.Module, watch: Watch) -> dict[str, float] | None:
        """Average precision on the validation images; None when stopped."""
        return self._ranks.on_first(lambda: self._evaluate(network, watch))

    def _evaluate(self, network: nn.Module, watch: Watch) -> dict[str, float] | None:
        assert self._evaluator is not None
        device, model = self._ranks.device, self._config.model
        predictor = torch_predictor(
            network,
            task=self.network.config.task,
            input_size=model.input_size,
            device=device,
            precision=self._config.runtime.precision if device.type == "cuda" else "float32",
        )
        evaluated = self._evaluator.evaluate(predictor, watch)
        return None if evaluated is None else dict(evaluated.metrics.values)

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

    def close(self) -> None:
        """End the worker processes."""
        self._loader.close()
