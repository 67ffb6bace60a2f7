"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Repository = Annotated[
    Path | None, typer.Option(help="Folder of models (default: RTMDET_MODEL_REPOSITORY).")
]
Model = Annotated[str | None, typer.Option(help="Model that answers (default: the first one).")]
