"""How log lines look: text for people, or one JSON object a line for programs.

Every logger of the process comes through here, the web server's too. A line says which request it
belongs to, and nothing that a client sends can begin a line of its own.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from service.request_context import NO_REQUEST, request_id, span_ids
from service.settings import LogFormat, LogLevel

#: Those whose `debug` is meant by the setting; other libraries write a line for every few bytes.
_OURS = ("service", "model", "uvicorn")

_SEPARATOR = " "


class Event:
    """A log message with values that programs read.

    `told` are values that stand in `message` already: JSON has them as fields of their own, text
    does not repeat them. Rendered only where a line is written.
    """

    __slots__ = ("fields", "message", "told")

    def __init__(
        self, message: str, *, told: Mapping[str, object], fields: Mapping[str, object]
    ) -> None:
        self.message = message
        self.told = told
        self.fields = fields

    def __str__(self) -> str:
        pairs = (f"{name}={_quoted(value)}" for name, value in self.fields.items())
        return _SEPARATOR.join((self.message, *pairs))


def configure_logs(level: LogLevel, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Have every logger write to `stream`, by default stderr, in one format."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(chosen_formatter(log_format, is_terminal=target.isatty()))
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO), force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(number)
    logging.captureWarnings(True)


def chosen_formatter(log_format: LogFormat, *, is_terminal: bool) -> logging.Formatter:
    """The formatter of that name; `auto` takes text for a terminal and JSON for anything else."""
    if log_format == "json" or (log_format == "auto" and not is_terminal):
        return JsonFormatter()
    return TextFormatter()


class _Formatter(logging.Formatter):
    """What both formats need: the time of a record, and its exception."""

    def __init__(self) -> None:
        super().__init__()
        #: The second that was written last; lines come many to a second.
        self._second = (-1, "")

    def time_of(self, record: logging.LogRecord) -> str:
        """RFC 3339, in UTC, with milliseconds."""
        second = int(record.created)
        known, text = self._second
        if known != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{int((record.created - second) * 1000):03d}Z"

    def trace_of(self, record: logging.LogRecord) -> str:
        """Traceback and stack, or nothing."""
        parts: list[str] = []
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)


class TextFormatter(_Formatter):
    """`TIME LEVEL LOGGER [REQUEST] MESSAGE`, a traceback indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and more only for a traceback."""
        about = "" if (identity := request_id.get()) == NO_REQUEST else f" [{identity}]"
        traced = "" if (ids := span_ids.get()) is None else f" trace_id={ids.trace_id}"
        head = f"{self.time_of(record)} {record.levelname} {record.name}{about} "
        line = head + _printable(record.getMessage()) + traced
        # Indented: what an exception says may come from a client, and must not look like a line.
        trace = self.trace_of(record).split("\n")
        return "\n".join((line, *(f"    {_printable(each)}" for each in trace if each)))


class JsonFormatter(_Formatter):
    """`time`, `level`, `logger`, `message`; what is known of `request_id`, `trace_id`, `span_id`,
    `exception`; the fields of an `Event`."""

    def __init__(self) -> None:
        super().__init__()
        self._encode = json.JSONEncoder(separators=(",", ":"), default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII."""
        event = record.msg if isinstance(record.msg, Event) else None
        members: dict[str, object] = {
            "time": self.time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if event is None else event.message,
        }
        if (identity := request_id.get()) != NO_REQUEST:
            members["request_id"] = identity
        if (ids := span_ids.get()) is not None:
            members |= ids._asdict()
        if event is not None:
            members |= event.told
            members |= event.fields
        if trace := self.trace_of(record):
            members["exception"] = trace
        return self._encode(members)


def _printable(text: str) -> str:
    """`text` with everything escaped that would move the cursor, end the line or hide itself."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and not any(each in text for each in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)
