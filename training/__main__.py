"""The command `rtmdet train`; those on data sets stand in `training.data_commands` and
`training.data_set_commands`.

rtmdet train --recipe rtmdet-ins-tiny-finetune --data shop/ --out runs/shop
rtmdet train --out runs/shop --resume

Exit codes: 0 at the end, 75 when it was stopped and everything is saved, 2 for the caller's
mistakes, 1 for anything else.
"""

import json as json_format
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from model.command_line import EXIT_FAILURE, EXIT_MISTAKE, one_line_errors, table
from training.config import TrainConfig
from training.data_commands import data as data_commands
from training.data_set_commands import app as data_set_commands
from training.interruption import die_with_parent
from training.order import Order, Request, order_of
from training.recipes import recipe as recipe_of
from training.recipes import recipe_names
from training.run.run_folder import RunPaths

app = typer.Typer(
    help="Train detectors and their backbones.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
data_commands.registered_commands += data_set_commands.registered_commands
app.add_typer(data_commands, name="data")


_EXAMPLE = """Example: rtmdet train --recipe rtmdet-tiny-finetune --data shop --out runs/shop
--set model.init=checkpoints/rtmdet-tiny-coco.safetensors --set data.batch_size=16.
Stopped (Ctrl-C, SIGTERM) it saves everything and exits with 75:
rtmdet train --out runs/shop --resume goes on."""


@app.command(epilog=" ".join(_EXAMPLE.split()))
@one_line_errors
def train(  # noqa: PLR0913 - one parameter for each option of the command
    recipe: Annotated[
        str | None, typer.Option(help="What to train, and how: see --list-recipes.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A data set: COCO, DOTA, YOLO, or folders of images.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder, which is made.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, as in schedule.epochs=50; may stand repeatedly."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the settings, train nothing.")
    ] = False,
    num_processes: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, one for each GPU.")
    ] = 1,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="List the recipes and end.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print --dry-run's plan as JSON.")] = False,
) -> None:
    """Train a model by a recipe, on one GPU, several, or a CPU."""
    if list_recipes:
        _list_recipes()
        return
    if out is None and not dry_run:
        raise ValueError("--out is missing: the folder for the run's checkpoints and logs")
    request = Request(out or Path(), recipe, data, tuple(assignments or ()), resume)
    from training.data.formats.checks import BrokenData

    try:
        if dry_run:
            _show_plan(order_of(request), num_processes, as_json=json)
            return
        raise typer.Exit(_train(request, num_processes))
    except BrokenData as error:
        typer.echo(f"rtmdet: {error.report()}", err=True)
        raise typer.Exit(EXIT_MISTAKE) from None


def _train(request: Request, num_processes: int) -> int:
    """Become a rank, or start several; returns the exit code."""
    from training.distributed import started_by_launcher

    if started_by_launcher():
        die_with_parent()
    order = order_of(request)
    if num_processes > 1 and not started_by_launcher():
        from training.run.launch import launch

        # The ranks run this very code, wherever the user is.
        here = str(Path(__file__).resolve().parent.parent)
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        return launch(
            num_processes,
            # Not from the folder that the user is in: a clone there may be named rtmdet.
            [sys.executable, "-P", "-m", "rtmdet", *sys.argv[1:]],
            order.config.runtime.grace_s,
            logs=RunPaths(order.out).ranks,
        )
    from training.checkpoint import CheckpointFailed
    from training.data.sampling.loading import WorkerLost
    from training.run.nonfinite import NonFiniteLoss
    from training.session import LostRank
    from training.session import train as train_rank
    from training.trainer import TooManyUnreadable

    try:
        return train_rank(order)
    except (CheckpointFailed, NonFiniteLoss, TooManyUnreadable, WorkerLost, LostRank) as error:
        text = error.strerror if isinstance(error, CheckpointFailed) else str(error)
        typer.echo(f"rtmdet: {text}", err=True)
        return EXIT_FAILURE


def _show_plan(order: Order, num_processes: int, *, as_json: bool) -> None:
    from training.config_json import assignments_of, to_json
    from training.datasets import ReadingReport, index_data, open_data
    from training.initialisation import initialise
    from training.networks import build_network
    from training.plan import lines, make_plan

    with tempfile.TemporaryDirectory() as folder:
        index_data(
            order.config, order.data, Path(folder), ReadingReport(partial(typer.echo, err=True))
        )
        data = open_data(order.config, Path(folder))
        plan = make_plan(order.config, data.counts, num_processes)
        remarks = [*order.remarks, *data.remarks]
        if order.resume:
            plan = replace(plan, init="this run's checkpoint")
        else:
            network = build_network(order.config.model, len(data.classes))
            remarks += initialise(network, order.config.model.init, classes=data.classes)
    if as_json:
        content = {"plan": plan.as_json(), "config": to_json(order.config), "remarks": remarks}
        typer.echo(json_format.dumps(content))
        return
    for line in (*lines(plan), *remarks, "settings:"):
        typer.echo(line)
    for assignment in assignments_of(order.config):
        typer.echo(f"  {assignment}")


def _list_recipes() -> None:
    rows = [_recipe_row(recipe_of(name)) for name in recipe_names()]
    typer.echo(table(("RECIPE", "TASK", "INPUT", "EPOCHS", "STAGES", "BATCH", "RATE"), rows))


def _recipe_row(config: TrainConfig) -> tuple[str, ...]:
    height, width = config.model.input_size
    return (
        config.recipe,
        config.model.task,
        f"{height}x{width}",
        str(config.schedule.epochs),
        ", ".join(stage.name for stage in config.stages),
        str(config.data.batch_size),
        f"{config.optimizer.lr:g} per {config.optimizer.lr_batch_size} images",
    )


if __name__ == "__main__":
    app()
