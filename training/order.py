"""What a command asks for, made whole: a configuration, a data set, a folder. Torch-free."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from training.config import TrainConfig
from training.config_json import assignments_of, differences, from_json
from training.overrides import apply_overrides
from training.recipes import recipe
from training.run.run_folder import RunRefused, read_config

#: The weights of a run that goes on are its own, wherever they once started.
_INIT = "model.init"


@dataclass(frozen=True)
class Request:
    """What the command was told. A run that is resumed knows its `recipe` and `data`."""

    out: Path
    recipe: str | None = None
    data: Path | None = None
    assignments: tuple[str, ...] = ()
    resume: bool = False


@dataclass(frozen=True)
class Order:
    """What is to be trained on what, and where; `remarks` are for people. `data` is absolute."""

    config: TrainConfig
    data: Path
    out: Path
    resume: bool = False
    remarks: tuple[str, ...] = ()


def order_of(request: Request) -> Order:
    """The order that a request amounts to.

    Raises ValueError: an unknown recipe or setting, nothing to resume, another run.
    """
    if request.resume:
        return _resumed(request)
    if request.recipe is None or request.data is None:
        missing = "--recipe" if request.recipe is None else "--data"
        raise ValueError(
            f"{missing} is missing: a new run needs --recipe and --data, and --resume goes on with "
            "the one in --out"
        )
    config = apply_overrides(recipe(request.recipe), request.assignments)
    return Order(config, _place(request.data), request.out)


def command_of(order: Order) -> str:
    """The command that starts the same training anew, as a shell takes it."""
    changed = set(assignments_of(order.config)) - set(assignments_of(recipe(order.config.recipe)))
    settings = [each for each in assignments_of(order.config) if each in changed]
    told = ["--recipe", order.config.recipe, "--data", str(order.data)]
    return shlex.join(["rtmdet", "train", *told, *(f"--set={each}" for each in settings)])


def _resumed(request: Request) -> Order:
    stored = read_config(request.out)
    began = from_json(stored["config"])
    if request.recipe not in (None, began.recipe):
        raise RunRefused(
            f"{request.out} holds a run of the recipe {began.recipe}, not {request.recipe}: leave "
            "--recipe out, or give another --out"
        )
    data = Path(stored["identity"]["data"])
    if request.data is not None and _place(request.data) != data:
        raise RunRefused(
            f"{request.out} holds a run on {data}, not on {request.data}: leave --data out, or "
            "give another --out"
        )
    assignments = [each for each in request.assignments if each.partition("=")[0] != _INIT]
    config = apply_overrides(began, assignments)
    if config.model != began.model:
        raise RunRefused(
            f"{request.out} holds a run of another network: "
            f"{'; '.join(differences(began, config))}; give another --out"
        )
    return Order(config, data, request.out, resume=True, remarks=_remarks(began, config))


def _place(data: Path) -> Path:
    """The same from wherever the run is resumed."""
    return data.resolve()


def _remarks(began: TrainConfig, config: TrainConfig) -> tuple[str, ...]:
    changes = differences(began, config)
    if not changes:
        return ()
    return (
        f"changed since the run began: {'; '.join(changes)}; from here on it is not what it would "
        "have been without that",
    )
