"""The `rtmdet` command: puts the commands of the parts under one name.

rtmdet serve
rtmdet detect street.jpg --out drawn/
rtmdet models list

And the client of a server, for programs: `from rtmdet import Client`.
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from model.repository import RepositoryModel
    from service.client import *  # noqa: F403
    from training.evaluation.predictors.graph import GraphRuntime
    from training.measuring.opening import ServingRuntimes

#: The caller's mistake.
EXIT_MISTAKE = 2

#: What a shell gives for a command that Ctrl-C ended.
EXIT_INTERRUPTED = 130


def __getattr__(name: str) -> object:
    """A name of the client, which is imported when it is first asked for."""
    if not name.startswith("_"):
        from service import client

        if name in client.__all__:
            return getattr(client, name)
    raise AttributeError(f"module 'rtmdet' has no attribute '{name}'")


def main() -> None:
    """Run a command; what the caller can mend is one line on stderr and exit code 2, a full disk
    and the like exit code 1."""
    _bound_threads()
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _bound_threads() -> None:
    # Small matrix products run on several threads of ours at once; each must not start more of
    # its own. numpy reads this when it is first imported, so it stands before every other import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    # torch's threads spin while they wait for one another, by default so long that beside anything
    # else that runs (data workers, a second process) they take the time of those that they wait
    # for. So long costs nothing on a quiet machine. torch reads this when it is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _run() -> None:
    # Imported here so that an interrupt meanwhile ends the command without a traceback.
    import typer

    from model.__main__ import app as model_app
    from model.command_line import exit_code_of, quiet_when_unread, told
    from service.__main__ import app as service_app
    from service.errors import ServiceError
    from service.version import VERSION
    from training.__main__ import app as training_app
    from training.evaluation_command import add_evaluation

    app = typer.Typer(
        name="rtmdet",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(VERSION)
            raise typer.Exit

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=show_version)
        ] = False,
    ) -> None:
        """Detect boxes, instance masks and rotated boxes with the RTMDet family."""

    add_evaluation(app, _serving_runtimes)
    for part in (service_app, model_app, training_app):
        app.registered_commands += part.registered_commands
        app.registered_groups += part.registered_groups
    for command in service_app.registered_commands:
        # Those of the other parts are so already.
        assert command.callback is not None
        command.callback = quiet_when_unread(command.callback)
    try:
        app()
    except (ServiceError, ValueError) as error:
        _end(str(error), EXIT_MISTAKE)
    except OSError as error:
        _end(told(error), exit_code_of(error))


def _end(message: str, exit_code: int) -> None:
    print(f"rtmdet: {message}", file=sys.stderr)  # noqa: T201 - this is a command line
    sys.exit(exit_code)


def _serving_runtimes() -> "ServingRuntimes":
    """The runtimes that serve, for evaluation: it may not know of serving itself."""
    from training.measuring.opening import ServingRuntimes

    def open_serving(
        runtime: str,
        model: "RepositoryModel",
        *,
        precision: str | None,
        outputs: tuple[str, ...] | None,
    ) -> "GraphRuntime":
        from service.settings import load_settings
        from service.wiring import open_runtime

        return open_runtime(
            model, load_settings(runtime=runtime, precision=precision), outputs=outputs
        )

    return ServingRuntimes(("openvino",), open_serving)


if __name__ == "__main__":
    main()
