"""`rtmdet keys`: make, list and revoke the API keys of a server."""

import json as json_format
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from model.command_line import one_line_errors, print_whole, table
from service.access.key_file import changing, read_keys, write_keys
from service.access.keys import NAME_PATTERN, SCOPES, ApiKey, Scope, create_key

keys = typer.Typer(
    help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None
)

File = Annotated[
    Path, typer.Option("--file", envvar="RTMDET_API_KEYS_FILE", help="File of the keys.")
]
Name = Annotated[str, typer.Argument(help="Name of the key, such as that of who gets it.")]


@keys.command(epilog="Example: rtmdet keys create camera-1 --scopes detect --file keys.jsonl")
@one_line_errors
def create(
    name: Name,
    file: File,
    scopes: Annotated[str, typer.Option(help=f"By commas: {', '.join(SCOPES)}.")],
    expires_days: Annotated[
        int | None,
        typer.Option(min=1, max=36_500, help="Days that the key is valid (default: for ever)."),
    ] = None,
) -> None:
    """Make a key and print it, this once: the file has a digest of it alone."""
    lifetime = None if expires_days is None else timedelta(days=expires_days)
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ValueError(
            f"'{name}' is no name for a key: letters, digits, dots, dashes and underscores, "
            "at most 64, the first a letter or digit"
        )
    secret, key = create_key(name, _parse_scopes(scopes), now=_now(), lifetime=lifetime)
    with changing(file):
        known = read_keys(file)[0] if file.exists() else ()
        if any(other.name == name for other in known):
            raise ValueError(
                f"there is a key named '{name}' in {file}; revoke it first, or choose another name"
            )
        write_keys(file, [*known, key])
        try:
            print_whole(secret)
        except BaseException:
            # A key that nobody has seen is of no use, and would keep its name.
            write_keys(file, known)
            raise
    typer.echo(f"key '{name}' for {', '.join(key.scopes)}, {_validity(key)}, in {file}", err=True)


@keys.command("list", epilog="Example: rtmdet keys list --file keys.jsonl --json")
@one_line_errors
def list_keys(
    file: File,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the keys; what they are cannot be shown any more."""
    known, _ = read_keys(file)
    if json:
        listed = [_as_json(key) for key in known]
        typer.echo(json_format.dumps({"keys": listed}, indent=2))
        return
    rows = [
        (key.name, ",".join(key.scopes), f"{key.created:%Y-%m-%d}", _validity(key)) for key in known
    ]
    typer.echo(table(("name", "scopes", "created", "validity"), rows))


@keys.command(epilog="Example: rtmdet keys revoke camera-1 --file keys.jsonl")
@one_line_errors
def revoke(name: Name, file: File) -> None:
    """Take a key away; a running server refuses it within seconds."""
    with changing(file):
        known, _ = read_keys(file)
        kept = [key for key in known if key.name != name]
        if len(kept) == len(known):
            raise ValueError(f"there is no key named '{name}' in {file}; see `rtmdet keys list`")
        write_keys(file, kept)
    typer.echo(f"key '{name}' is revoked", err=True)


def _parse_scopes(text: str) -> tuple[Scope, ...]:
    wanted = {scope.strip() for scope in text.split(",")}
    unknown = wanted - set(SCOPES)
    if unknown:
        raise ValueError(f"no scope '{min(unknown)}': give some of {','.join(SCOPES)} by commas")
    return tuple(scope for scope in SCOPES if scope in wanted)


def _now() -> datetime:
    return datetime.now(UTC)


def _validity(key: ApiKey) -> str:
    if key.expires is None:
        return "for ever"
    word = "expired" if key.is_expired(_now()) else "until"
    return f"{word} {key.expires:%Y-%m-%d %H:%M} UTC"


def _as_json(key: ApiKey) -> dict[str, object]:
    members = key.model_dump(mode="json", exclude={"sha256"})
    return {**members, "expired": key.is_expired(_now())}
