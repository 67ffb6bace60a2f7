"""The file of API keys: JSON Lines, one record per key, replaced as a whole.

    {"name": "camera-1", "scopes": ["detect"], "sha256": "…", "created": "…", "expires": null}

Messages about a damaged file name line and member, never a value: someone may have written a key
there by mistake.
"""

import fcntl
import logging
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model.durable import move_into_place, part_of
from service.access.keys import ApiKey

logger = logging.getLogger(__name__)

#: Its owner alone: who can write the file can make keys, who can read it learns names.
#: Thousands of keys take less.
_MAX_BYTES = 16 * 1024 * 1024

_MODE = 0o600
_OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


class KeysFileError(ValueError):
    """A file of keys that cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class FileVersion:
    """Tells one content of a file from the next: it was replaced, or written to."""

    inode: int
    modified_ns: int
    num_bytes: int


def version_of(status: os.stat_result) -> FileVersion:
    """The version that a file's status tells."""
    return FileVersion(status.st_ino, status.st_mtime_ns, status.st_size)


def read_keys(path: Path) -> tuple[tuple[ApiKey, ...], FileVersion]:
    """The keys in the file, and which version of it they are. Raises KeysFileError.

    Warns where others than the owner can read the file, or change it.
    """
    _require_regular(path)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise KeysFileError(
            f"there is no file of API keys {path}; "
            f"`rtmdet keys create NAME --scopes detect --file {path}` makes one"
        ) from error
    except OSError as error:
        raise KeysFileError(
            f"the file of API keys {path} cannot be read: {error.strerror}"
        ) from error
    if len(content) > _MAX_BYTES:
        raise KeysFileError(f"{path} has more than {_MAX_BYTES} bytes and is no file of API keys")
    if stat.S_IMODE(status.st_mode) & _OPEN_TO_OTHERS:
        logger.warning("others can read or change the file of API keys; chmod 600 %s", path)
    return _parse(content, path), version_of(status)


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file at once, readable by its owner alone."""
    # A link stays what it is.
    path = path.resolve()
    part = part_of(path)
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "w") as file:
        file.writelines(key.model_dump_json() + "\n" for key in keys)
        with suppress(FileNotFoundError, PermissionError):
            # Written by root, it stays readable for the account that the server runs as.
            before = path.stat()
            os.chown(file.fileno(), before.st_uid, before.st_gid)
    move_into_place(part, path)


@contextmanager
def changing(path: Path) -> Generator[None]:
    """Keeps others who change the file waiting, so that no change is lost."""
    path = path.resolve()
    if not path.parent.is_dir():
        raise KeysFileError(f"there is no folder {path.parent} for the file of API keys")
    _require_regular(path)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, _MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _require_regular(path: Path) -> None:
    """Refuse a device, a pipe or a folder: it would be read without end, or replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise KeysFileError(f"{path} is no regular file; name another for the API keys")


def _parse(content: bytes, path: Path) -> tuple[ApiKey, ...]:
    keys: list[ApiKey] = []
    names: set[str] = set()
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            key = ApiKey.model_validate_json(line)
        except ValidationError as error:
            raise KeysFileError(f"{path}, line {number}: {_what_is_wrong(error)}") from None
        if key.name in names:
            raise KeysFileError(f"{path}, line {number}: a second key named '{key.name}'")
        names.add(key.name)
        keys.append(key)
    return tuple(keys)


def _what_is_wrong(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if not first["loc"]:
        return "no JSON object"
    member = str(first["loc"][0])
    if member not in ApiKey.model_fields:
        return f"a record has only the members {', '.join(ApiKey.model_fields)}"
    return f"'{member}': {first['msg']}"
