"""Files of API keys for tests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.access.key_file import read_keys, write_keys
from service.access.keys import Scope, create_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def add_key(
    path: Path, name: str, scopes: Sequence[Scope], *, lifetime: timedelta | None = None
) -> str:
    """Add a key that was made at `NOW` to the file; returns its secret."""
    known = read_keys(path)[0] if path.exists() else ()
    secret, key = create_key(name, scopes, now=NOW, lifetime=lifetime)
    write_keys(path, [*known, key])
    return secret
