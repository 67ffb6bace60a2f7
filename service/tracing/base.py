"""Where the time of a request goes, as spans of a trace; this one records nothing.

The sibling records. Stages are children of whatever is under way where they are opened, also on
another thread that has a copy of the context.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

#: What an attribute may be.
Value = str | int | float | bool


class Span(Protocol):
    """A part of a request, from where its block is entered to where it is left.

    An exception that leaves the block stands in the span's `error.type`.
    """

    def set(self, name: str, value: Value) -> None:
        """Note something about it."""
        ...

    def lasted(self, seconds: float) -> None:
        """It ended so long after it began, not when the block is left."""
        ...


class Tracing(Protocol):
    """Opens spans."""

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded at all."""
        ...

    def request(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, Value]
    ) -> AbstractContextManager["RequestSpan"]:
        """A whole request; `headers`, by names in lower case, say which trace it belongs to."""
        ...

    def stage(self, name: str, *, began_s: float | None = None) -> AbstractContextManager[Span]:
        """A part of the request under way, since `began_s` (of `time.time`), by default now."""
        ...

    def stop(self) -> None:
        """Hand over what is recorded; blocks for seconds at most."""
        ...


class RequestSpan(Span, Protocol):
    """A whole request, whose route is known only at its end."""

    def rename(self, name: str) -> None:
        """Call it so instead."""
        ...

    def fail(self, kind: str) -> None:
        """The server could not do what it was asked for; `kind` says why."""
        ...


class _Nothing:
    """A span that is not recorded."""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def set(self, name: str, value: Value) -> None:
        pass

    def lasted(self, seconds: float) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass


_NOTHING = _Nothing()


class NoTracing:
    """Records nothing."""

    is_on = False

    def request(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, Value]
    ) -> AbstractContextManager[RequestSpan]:
        """Nothing."""
        return _NOTHING

    def stage(self, name: str, *, began_s: float | None = None) -> AbstractContextManager[Span]:
        """Nothing."""
        return _NOTHING

    def stop(self) -> None:
        """Nothing is held."""


NO_TRACING = NoTracing()
