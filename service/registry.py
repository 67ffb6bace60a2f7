"""The models that are being served, and which is meant; loads, replaces and unloads them."""

import asyncio
import difflib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar
from weakref import WeakValueDictionary

from model.repository import ModelRepository, RepositoryError, RepositoryModel
from service.errors import ModelNotLoadable, ModelNotReady, ShuttingDown, UnknownModel
from service.runtime.base import Runtime
from service.scheduler.call_threads import CallThreads
from service.scheduler.engine_places import EnginePlaces
from service.served_model import ModelOpener, ServedModel
from service.telemetry import Metrics

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Which kind of model answers first where a request names none.
_TASK_ORDER = ("detect", "instance", "rotated")


@dataclass(frozen=True)
class ModelStatus:
    """One model as `/models` and `/readyz` show it; `problem` says why it does not answer now.

    A model that failed could not be loaded; one that recovers had a runtime that hung.
    """

    name: str
    state: Literal["ready", "loading", "unloaded", "failed", "recovering"]
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
        self._default_model = default_model
        self.metrics = metrics or Metrics()
        self._opener = ModelOpener(
            repository,
            open_runtime,
            EnginePlaces(num_places),
            max_waiting=max_waiting,
            hang_s=hang_s,
            metrics=self.metrics,
        )
        self._models: dict[str, ModelStatus] = {}
        #: Answers requests that name none, until it is unloaded: another one's answers would be
        #: others, whatever is loaded meanwhile.
        self._first_loaded: str | None = None
        # Names come from outside: a lock is kept only as long as somebody holds or awaits it.
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changes: set[asyncio.Task[object]] = set()
        self._stopping = False

    @property
    def statuses(self) -> Sequence[ModelStatus]:
        """Every model that was asked for, in the order in which they answer by default."""
        return sorted(map(_now, self._models.values()), key=_default_order)

    def catalogue(self) -> Sequence[ModelStatus]:
        """`statuses`, and what else lies in the repository and could be loaded; reads a folder."""
        others = [name for name in self._repository.names() if name not in self._models]
        return [*self.statuses, *(ModelStatus(name, "unloaded") for name in others)]

    @property
    def is_ready(self) -> bool:
        """Whether there is anything to serve with."""
        return any(status.state == "ready" for status in self.statuses)

    async def problems(self) -> dict[str, str | None]:
        """For every model that is loaded, why it does not answer, by a real inference lately."""
        served = self._served()
        found = await asyncio.gather(*(each.canary.problem() for each in served))
        return {each.source.name: problem for each, problem in zip(served, found, strict=True)}

    @property
    def default_name(self) -> str | None:
        """The model that answers requests which name none."""
        if self._default_model is not None:
            return self._default_model
        return self._first_loaded

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
                self._set(ModelStatus(name, "ready", self._opener.open(name)))
            except RepositoryError as error:
                if names:
                    raise
                logger.error("model %s is not served: %s", name, error)
                self._models[name] = ModelStatus(name, "failed", problem=str(error))
        self._first_loaded = next((s.name for s in self.statuses if s.served), None)
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
        self._stopping = True
        await asyncio.gather(*self._changes, return_exceptions=True)
        await asyncio.gather(*(served.batcher.stop() for served in self._served()))

    def resolve(self, name: str | None) -> ServedModel:
        """The model of that name, or the default one. Raises UnknownModel, ModelNotReady."""
        wanted = name if name is not None else self.default_name
        if wanted is None:
            raise ModelNotReady("no model is loaded; see /readyz")
        status = self._models.get(wanted)
        if status is None:
            raise UnknownModel(f"no model '{wanted}'; {self._hint(wanted)}")
        if status.served is not None:
            return status.served
        if status.state == "loading":
            raise ModelNotReady(f"model '{wanted}' is being loaded; try again", retry_after_s=1.0)
        if status.state == "unloaded":
            raise ModelNotReady(f"model '{wanted}' is not loaded; see /models for those that are")
        raise ModelNotReady(f"model '{wanted}' could not be loaded: {status.problem}")

    async def load(self, name: str, version: int | None = None) -> ModelStatus:
        """Load a version of a model, by default the newest, or replace the one that is served.

        The old one answers until the new one is warm, and then what it has accepted. Goes on where
        the caller is cancelled. Raises UnknownModel, and ModelNotLoadable, after which the old one
        is still served.
        """
        return await self._change(name, self._load(name, version))

    async def unload(self, name: str) -> ModelStatus:
        """Take a model out of service, after what it has accepted. Raises UnknownModel."""
        return await self._change(name, self._unload(name))

    async def _change(self, name: str, change: Coroutine[None, None, Result]) -> Result:
        """Run a change of a model to its end, one at a time."""

        async def alone() -> Result:
            async with lock:
                return await change

        if self._stopping:
            change.close()
            raise ShuttingDown("the server is shutting down; no model is loaded or unloaded")
        lock = self._changing.setdefault(name, asyncio.Lock())
        task = asyncio.create_task(alone(), name=f"change-{name}")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _load(self, name: str, version: int | None) -> ModelStatus:
        known = await asyncio.to_thread(self._repository.names)
        if name not in known:
            raise UnknownModel(f"no model '{name}' in the repository; {_hint(name, known)}")
        before = self._models.get(name)
        if before is None or before.served is None:
            self._models[name] = ModelStatus(name, "loading")
        opening = CallThreads(1, "opening")
        try:
            served = await opening.run(lambda: self._opener.open(name, version))
        except RepositoryError as error:
            logger.error("model %s cannot be loaded: %s", name, error)
            if before is None or before.served is None:
                self._models[name] = ModelStatus(name, "failed", problem=str(error))
            raise ModelNotLoadable(str(error)) from error
        finally:
            opening.close()
        served.batcher.start()
        self._set(ModelStatus(name, "ready", served))
        if before is not None and before.served is not None:
            await before.served.batcher.stop()
        return self._models[name]

    async def _unload(self, name: str) -> ModelStatus:
        status = self._models.get(name)
        if status is None:
            raise UnknownModel(f"no model '{name}' is loaded; {self._hint(name)}")
        self._set(ModelStatus(name, "unloaded"))
        if status.served is not None:
            logger.info("model %s version %d is unloaded", name, status.served.source.version)
            await status.served.batcher.stop()
        return self._models[name]

    def _set(self, status: ModelStatus) -> None:
        """What is served under a name from now on."""
        before = self._models.get(status.name)
        self._models[status.name] = status
        if not self._is_loaded(self._first_loaded):
            self._first_loaded = next((s.name for s in self.statuses if s.served), None)
        if before is not None and before.served is not None:
            self.metrics.model_gone(status.name)
        if (served := status.served) is not None:
            self.metrics.model_served(
                status.name,
                version=str(served.source.version),
                task=served.source.manifest.task,
                variant=served.source.manifest.variant,
                runtime=served.runtime_description,
            )

    def _is_loaded(self, name: str | None) -> bool:
        status = None if name is None else self._models.get(name)
        return status is not None and status.served is not None

    def _served(self) -> list[ServedModel]:
        return [status.served for status in self._models.values() if status.served is not None]

    def _hint(self, name: str) -> str:
        return _hint(name, sorted(self._models))


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known)
    return f"did you mean '{near[0]}'? There are: {listed}" if near else f"there are: {listed}"


def _now(status: ModelStatus) -> ModelStatus:
    """The status, with what has become of a model that was loaded."""
    if status.served is None or (problem := status.served.batcher.problem) is None:
        return status
    return replace(status, state="recovering", problem=problem)


def _default_order(status: ModelStatus) -> tuple[int, str]:
    if status.served is None:
        return len(_TASK_ORDER), status.name
    return _TASK_ORDER.index(status.served.identity.task), status.name
