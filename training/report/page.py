"""A report as one HTML file that needs nothing else: no network, no other file.

Its text is escaped by the template, its drawings by `svg.py`; a policy in the page forbids to load
anything and to run any script but its own.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from model.durable import move_into_place, part_of

_PACKAGE = "training.report"


def require_folder(path: Path) -> None:
    """Raises ValueError where the folder of `path` is not there: better before the work."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")


def write_page(
    path: Path, template: str, values: Mapping[str, Any], *, package: str = _PACKAGE
) -> None:
    """Write the template with these values; `path` is there whole or not at all.

    Templates are those of `package`, which may extend the ones here. Raises OSError where the page
    cannot be written.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_PACKAGE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _file(environment, "report.js")
    page = environment.get_template(template).render(
        style=Markup(_file(environment, "report.css")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )
    part = part_of(path)
    try:
        # Names from files may hold what is no valid text.
        part.write_text(page, "utf-8", errors="replace", newline="\n")
        move_into_place(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _file(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].rstrip()
