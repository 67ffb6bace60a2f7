"""The `rtmdet` command: puts the commands of the parts under one name.

rtmdet serve
rtmdet detect street.jpg --out drawn/
rtmdet models list
"""

import os
import sys

#: The caller's mistake.
EXIT_MISTAKE = 2

# Small matrix products run on several threads of ours at once; each must not start more of its
# own. numpy reads this when it is first imported, so it stands before every other import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    """Run a command; what the caller can mend is one line on stderr and exit code 2."""
    import typer

    from model.__main__ import app as model_app
    from service.__main__ import app as service_app
    from service.errors import ServiceError

    app = typer.Typer(
        name="rtmdet",
        help="Detect boxes, instance masks and rotated boxes with the RTMDet family.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for part in (service_app, model_app):
        app.registered_commands += part.registered_commands
        app.registered_groups += part.registered_groups
    try:
        app()
    except (ServiceError, ValueError, OSError) as error:
        print(f"rtmdet: {error}", file=sys.stderr)  # noqa: T201 - this is a command line
        sys.exit(EXIT_MISTAKE)


if __name__ == "__main__":
    main()
