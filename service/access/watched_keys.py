"""The keys of a running server: read again when their file changes, without a restart."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from service.access.key_file import FileVersion, KeysFileError, read_keys, version_of
from service.access.keys import KeyRing

logger = logging.getLogger(__name__)

#: How often the file is looked at, at most.
_LOOK_EVERY_S = 1.0


class WatchedKeys:
    """The keys that are in the file now, or were when it last could be read.

    A file that is broken or gone is reported once, and the keys that were read last stay valid: a
    slip of an editor must not lock everyone out. Raises KeysFileError for one that is broken from
    the start.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        keys, self._version = read_keys(path)
        self._ring = KeyRing(keys)
        self._looked_s = clock()

    def current(self) -> KeyRing:
        """The keys that hold; looks at the file at most once a second."""
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            self._look()
        return self._ring

    def _look(self) -> None:
        version = self._version_there()
        if version == self._version:
            return
        # Noted even if the file turns out to be broken, which is then said once.
        self._version = version
        try:
            keys, self._version = read_keys(self._path)
        except KeysFileError as error:
            logger.error("%s; the keys that were read before stay valid", error)
        else:
            self._ring = KeyRing(keys)
            logger.info("%d API keys read from %s", len(keys), self._path)

    def _version_there(self) -> FileVersion | None:
        try:
            return version_of(self._path.stat())
        except OSError:
            return None
