"""Batches of annotated images for one rank: drafts planned here, rendered in workers."""

from functools import partial

from training.config import TrainConfig
from training.data.annotations import AnnotatedImages
from training.data.sampling.batches import batch_of
from training.data.sampling.drafts import Draft
from training.data.sampling.epochs import EpochLoader, WorkerLost
from training.data.sampling.rendering import Renderer
from training.data.sampling.sampler import Sampler, trainable_positions
from training.targets import DetectionBatch

__all__ = ["TrainingLoader", "WorkerLost"]


class TrainingLoader(EpochLoader[Draft, DetectionBatch]):
    """The batches of one rank. Raises ValueError when no image can be trained on."""

    def __init__(
        self, data: AnnotatedImages, config: TrainConfig, *, rank: int = 0, num_ranks: int = 1
    ) -> None:
        positions = trainable_positions(data, config)
        sampler = Sampler(positions, config, rank=rank, num_ranks=num_ranks)
        renderer = Renderer(data, positions, config)
        super().__init__(sampler, partial(_rendered, renderer), num_workers=config.data.num_workers)


def _rendered(renderer: Renderer, drafts: list[Draft]) -> DetectionBatch:
    return batch_of([renderer.render(draft) for draft in drafts])
