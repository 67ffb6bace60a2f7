"""The models that are being served: each with its runtime and its queue, and which is meant."""

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from model.manifest import TASK_OUTPUTS
from model.repository import ModelRepository, RepositoryError, RepositoryModel
from service.detection import ModelIdentity
from service.errors import ModelNotReady, UnknownModel
from service.runtime.base import Runtime
from service.scheduler.batcher import Batcher, Recovery
from service.scheduler.engine_places import EnginePlaces
from service.telemetry import Metrics

logger = logging.getLogger(__name__)

#: Which kind of model answers first where a request names none.
_TASK_ORDER = ("detect", "instance", "rotated")


@dataclass(frozen=True)
class ServedModel:
    """A loaded model."""

    source: RepositoryModel
    runtime_description: str
    batcher: Batcher

    @property
    def identity(self) -> ModelIdentity:
        """As it stands in answers."""
        return ModelIdentity(self.source.name, str(self.source.version), self.source.manifest.task)


@dataclass(frozen=True)
class ModelStatus:
    """One model as `/models` and `/readyz` show it; `problem` says why it does not answer now.

    A model that failed was not loaded; one that recovers had a runtime that hung.
    """

    name: str
    state: Literal["ready", "failed", "recovering"]
    served: ServedModel | None = None
    problem: str | None = None


class ModelRegistry:
    """Opens models of a repository and gives out the one that a request means."""

    def __init__(
        self,
        repository: ModelRepository,
        open_runtime: Callable[[RepositoryModel], Runtime],
        *,
        max_waiting: int,
        num_places: int = 1,
        hang_s: float = 60.0,
        default_model: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`num_places` is how many calls of runtimes keep the machine busy, all models together;
        after `hang_s` a call counts as hung."""
        self._repository = repository
        self._open_runtime = open_runtime
        self._max_waiting = max_waiting
        self._places = EnginePlaces(num_places)
        self._hang_s = hang_s
        self._default_model = default_model
        self.metrics = metrics or Metrics()
        self._models: dict[str, ModelStatus] = {}

    @property
    def statuses(self) -> Sequence[ModelStatus]:
        """Every model that was asked for, in the order in which they answer by default."""
        return sorted(map(_now, self._models.values()), key=_default_order)

    @property
    def is_ready(self) -> bool:
        """Whether there is anything to serve with."""
        return any(status.state == "ready" for status in self.statuses)

    @property
    def default_name(self) -> str | None:
        """The model that answers requests which name none."""
        if self._default_model is not None:
            return self._default_model
        # Also one that recovers: another model's answers would be others.
        return next((s.name for s in self.statuses if s.served is not None), None)

    def open(self, names: Sequence[str]) -> None:
        """Open models and their runtimes; blocks. No names: all that the repository has.

        A model that cannot be opened does not keep the others from being served, unless it was
        asked for by name. Raises RepositoryError for that, or where there is none at all.
        """
        self._repository.require()
        wanted = list(dict.fromkeys(names)) or self._repository.names()
        if self._default_model is not None and self._default_model not in wanted:
            raise RepositoryError(
                f"the default model '{self._default_model}' is not among those to serve: "
                f"{', '.join(wanted) or 'none'}"
            )
        for name in wanted:
            try:
                self._models[name] = ModelStatus(name, "ready", self._open(name))
            except RepositoryError as error:
                if names:
                    raise
                logger.error("model %s is not served: %s", name, error)
                self._models[name] = ModelStatus(name, "failed", problem=str(error))
        if not self.is_ready:
            raise RepositoryError("none of the models could be loaded; the log says why")

    def measure(self) -> None:
        """Bring the metrics up to date that tell how things are, not what happened."""
        for served in self._served():
            served.batcher.measure()

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        for served in self._served():
            served.batcher.start()

    async def stop(self) -> None:
        """Finish what is queued and release every runtime."""
        for served in self._served():
            await served.batcher.stop()

    def resolve(self, name: str | None) -> ServedModel:
        """The model of that name, or the default one. Raises UnknownModel, ModelNotReady."""
        wanted = name if name is not None else self.default_name
        if wanted is None:
            raise ModelNotReady("no model could be loaded; see /readyz")
        status = self._models.get(wanted)
        if status is None:
            raise UnknownModel(f"no model '{wanted}'; {self._hint(wanted)}")
        if status.served is None:
            raise ModelNotReady(f"model '{wanted}' could not be loaded: {status.problem}")
        return status.served

    def _open(self, name: str) -> ServedModel:
        source = self._repository.open(name)
        try:
            runtime = self._open_runtime(source)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise RepositoryError(f"{source.graph_path}: cannot be loaded: {reason}") from error
        if frozenset(runtime.output_names) != TASK_OUTPUTS[source.manifest.task]:
            raise RepositoryError(
                f"{source.graph_path}: a model for '{source.manifest.task}' gives "
                f"{', '.join(sorted(TASK_OUTPUTS[source.manifest.task]))}, this one "
                f"{', '.join(sorted(runtime.output_names))}; export it again"
            )
        logger.info("model %s version %d: %s", name, source.version, runtime.description)
        batcher = Batcher(
            runtime,
            max_waiting=self._max_waiting,
            name=name,
            metrics=self.metrics,
            places=self._places,
            recovery=Recovery(self._hang_s, lambda: self._open_runtime(source)),
        )
        self.metrics.model_served(
            name,
            version=str(source.version),
            task=source.manifest.task,
            variant=source.manifest.variant,
            runtime=runtime.description,
        )
        return ServedModel(source, runtime.description, batcher)

    def _served(self) -> list[ServedModel]:
        return [status.served for status in self._models.values() if status.served is not None]

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._models, n=1)
        known = ", ".join(sorted(self._models))
        return f"did you mean '{near[0]}'? There are: {known}" if near else f"there are: {known}"


def _now(status: ModelStatus) -> ModelStatus:
    """The status, with what has become of a model that was loaded."""
    if status.served is None or (problem := status.served.batcher.problem) is None:
        return status
    return replace(status, state="recovering", problem=problem)


def _default_order(status: ModelStatus) -> tuple[int, str]:
    if status.served is None:
        return len(_TASK_ORDER), status.name
    return _TASK_ORDER.index(status.served.identity.task), status.name
