"""The `rtmdet` command: puts the commands of the parts under one name."""

import sys

import click
import typer
from model.__main__ import app as model_app

from service.__main__ import app as service_app
from service.errors import ServiceError

#: The caller's mistake, and a fault that is not the caller's.
EXIT_MISTAKE = 2
EXIT_FAILURE = 1

app = typer.Typer(
    name="rtmdet",
    help="Detect boxes, instance masks and rotated boxes with the RTMDet family.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
for part in (service_app, model_app):
    app.registered_commands += part.registered_commands
    app.registered_groups += part.registered_groups


def main() -> None:
    """Run a command; what the caller can mend is one line on stderr and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except (ServiceError, ValueError, OSError) as error:
        print(f"rtmdet: {error}", file=sys.stderr)  # noqa: T201 - this is a command line
        sys.exit(EXIT_MISTAKE)


if __name__ == "__main__":
    main()
