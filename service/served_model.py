"""One model that is served, and how it comes to be: files, runtime, warm-up, queue."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from model.manifest import TASK_OUTPUTS
from model.repository import ModelRepository, RepositoryError, RepositoryModel
from service.canary import Canary
from service.detection import ModelIdentity
from service.runtime.base import Runtime
from service.scheduler.batcher import Batcher
from service.scheduler.engine_places import EnginePlaces
from service.scheduler.latency import LatencyModel
from service.scheduler.supervised_runtime import Recovery
from service.scheduler.warm_up import warm_up
from service.telemetry import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model; `postprocessing` is what a picture of it takes after inference."""

    source: RepositoryModel
    runtime_description: str
    runtime_reason: str
    batcher: Batcher
    canary: Canary
    postprocessing: LatencyModel = field(default_factory=LatencyModel)

    @property
    def identity(self) -> ModelIdentity:
        """As it stands in answers."""
        return ModelIdentity(self.source.name, str(self.source.version), self.source.manifest.task)


@dataclass(frozen=True)
class ModelOpener:
    """Opens models of a repository, to run on places that they share.

    After `hang_s` a call of a runtime counts as hung; `max_waiting` pictures may wait for a model.
    """

    repository: ModelRepository
    open_runtime: Callable[[RepositoryModel], Runtime]
    places: EnginePlaces
    max_waiting: int
    hang_s: float
    metrics: Metrics

    def open(self, name: str, version: int | None = None) -> ServedModel:
        """A version of a model, by default the newest, warmed up and not started yet; blocks.

        Raises RepositoryError.
        """
        source = self.repository.open(name, version)
        manifest = source.manifest
        runtime: Runtime | None = None
        try:
            runtime = self.open_runtime(source)
            if frozenset(runtime.output_names) != TASK_OUTPUTS[manifest.task]:
                raise RepositoryError(
                    f"{source.graph_path}: a model for '{manifest.task}' gives "
                    f"{', '.join(sorted(TASK_OUTPUTS[manifest.task]))}, this one "
                    f"{', '.join(sorted(runtime.output_names))}; export it again"
                )
            latency = warm_up(runtime, manifest.input_size)
        except Exception as error:
            if runtime is not None:
                runtime.close()
            if isinstance(error, RepositoryError):
                raise
            # A library raises nearly anything; whatever it is, this model cannot be served.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RepositoryError(f"{source.graph_path}: cannot be loaded: {reason}") from error
        logger.info(
            "model %s version %d: %s (%s)",
            name,
            source.version,
            runtime.description,
            runtime.reason,
        )
        batcher = Batcher(
            runtime,
            max_waiting=self.max_waiting,
            name=name,
            metrics=self.metrics,
            places=self.places,
            latency=latency,
            recovery=Recovery(self.hang_s, lambda: self.open_runtime(source)),
        )
        return ServedModel(
            source,
            runtime.description,
            runtime.reason,
            batcher,
            Canary(batcher, manifest.input_size),
        )
