"""The commands of the service under one name; `rtmdet.py` joins them with the other parts'."""

import sys

import typer

from service.commands.bench import EPILOG, bench
from service.commands.detect import detect
from service.commands.doctor import doctor
from service.commands.keys import keys
from service.commands.serve import serve

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

app.command(epilog="Example: rtmdet serve --port 8000 --repository triton_repo")(serve)
app.command(epilog="Example: rtmdet detect street.jpg --out drawn/ --score-threshold 0.4")(detect)
app.command(epilog="Example: rtmdet doctor --repository triton_repo")(doctor)
app.add_typer(keys, name="keys")
app.command(epilog=EPILOG)(bench)

if __name__ == "__main__":
    sys.exit(app())
