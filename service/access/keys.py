"""API keys: what one allows, how one is made, how a presented one is found.

A key is 256 random bits behind a prefix that scanners for leaked secrets recognise. Such a key
cannot be guessed, so a plain SHA-256 of it is kept, and no slow hash as passwords need.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

#: What a key may allow. None of them includes another.
Scope = Literal["detect", "admin", "train"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "rtmdet_"
_NUM_RANDOM_BYTES = 32

#: Names stand in logs, metrics and command lines.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ApiKey(BaseModel):
    """What is kept of a key: never the key itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now


class KeyRing:
    """The keys that a server knows, expired ones included."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = tuple(keys)

    def find(self, presented: str) -> ApiKey | None:
        """The key whose secret was presented, if there is one.

        Every record is compared, each in constant time: how long it takes says nothing about
        which of them is near.
        """
        digest = digest_of(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def num_usable(self, now: datetime) -> int:
        """How many of the keys have not expired."""
        return sum(not key.is_expired(now) for key in self._keys)


def create_key(
    name: str, scopes: Sequence[Scope], *, now: datetime, lifetime: timedelta | None = None
) -> tuple[str, ApiKey]:
    """A new key: the secret, to be shown once, and the record to be kept.

    Raises ValueError (pydantic's) for a name that does not fit `NAME_PATTERN`.
    """
    secret = PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)
    now = now.replace(microsecond=0)
    record = ApiKey(
        name=name,
        scopes=tuple(scopes),
        sha256=digest_of(secret),
        created=now,
        expires=None if lifetime is None else now + lifetime,
    )
    return secret, record


def digest_of(secret: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
