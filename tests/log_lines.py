"""What a server in this process logs, as its JSON lines."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.logs import JsonFormatter


class LogLines:
    """Lines in the order in which they were written; safe to read while more come."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self._more = threading.Condition()

    def write(self, text: str) -> None:
        with self._more:
            self._stream.write(text)
            self._more.notify_all()

    def flush(self) -> None:
        """Nothing is held back."""

    def all(self) -> list[dict]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def of(self, logger: str, number: int) -> list[dict]:
        """The lines of one logger, once there are so many."""

        def found() -> list[dict]:
            return [line for line in self.all() if line["logger"] == logger]

        with self._more:
            assert self._more.wait_for(lambda: len(found()) >= number, 10), self.all()
        return found()


@contextmanager
def logged(level: int = logging.INFO) -> Iterator[LogLines]:
    """The lines that loggers of the service write within the block."""
    lines = LogLines()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("service")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
