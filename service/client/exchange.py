"""One call from its first attempt to its answer or error, without any input or output.

`exchange` is a generator: it yields what is to be done (send this, wait so long) and is sent what
came of it. The clients differ only in how they do it.
"""

import re
import secrets
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from service.client.answers import Answer, Unreadable, problem_in
from service.client.calls import Call
from service.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionFailed,
    ProblemError,
    TimedOut,
)
from service.client.options import Fields
from service.client.pictures import Body
from service.client.retries import NO_RETRY, PASSING_STATUSES, Retry

T = TypeVar("T")

_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True)
class Terms:
    """What holds for every call of a client. `server` is its base URL, `clock` gives seconds."""

    server: str
    timeout_s: float
    retry: Retry
    clock: Callable[[], float]


@dataclass(frozen=True)
class Attempt:
    """A request to be sent, given up at `deadline_s` of `clock`."""

    method: str
    path: str
    query: Fields
    headers: Mapping[str, str]
    body: Body | None
    deadline_s: float
    clock: Callable[[], float]

    def remaining_s(self) -> float:
        """How long the answer is still waited for; not positive when it is too late."""
        return self.deadline_s - self.clock()


@dataclass(frozen=True)
class Pause:
    """Time to let pass before the next attempt."""

    seconds: float


@dataclass(frozen=True)
class Failure:
    """An attempt without an answer. `may_pass` says whether another one may fare better.

    `was_kept_alive`: the connection had served another request before; the server may have closed
    it just then, which says nothing of how the server is.
    """

    reason: str
    timed_out: bool = False
    may_pass: bool = True
    was_kept_alive: bool = False


Outcome = Answer | Failure


def exchange(
    call: Call[T], terms: Terms, *, timeout_s: float | None, request_id: str | None
) -> Generator[Attempt | Pause, Outcome | None, T]:
    """Yields attempts, each to be sent its outcome, and pauses, each to be sent None.

    Returns the call's value. Raises ClientError; ValueError for an unusable time or id.
    """
    allowed_s = terms.timeout_s if timeout_s is None else timeout_s
    if not allowed_s > 0:
        raise ValueError(f"timeout_s={allowed_s}: a call needs some time")
    identity = _usable(request_id)
    deadline_s = terms.clock() + allowed_s
    retry = terms.retry if call.is_retried else NO_RETRY
    failures = 0
    forgiven = False
    while True:
        attempt = _attempt(call, identity, deadline_s, terms.clock)
        outcome = yield attempt
        assert outcome is not None
        if _is_understood(outcome, call):
            return _read(call, outcome, terms, identity)
        if isinstance(outcome, Failure) and outcome.was_kept_alive and not forgiven:
            forgiven = True
            continue
        failures += 1
        error = _error_of(outcome, terms, identity, failures)
        pause_s = None
        if _may_pass(error):
            asked_s = error.retry_after_s if isinstance(error, ProblemError) else None
            remaining_s = attempt.remaining_s()
            pause_s = retry.pause_s(failures, remaining_s=remaining_s, asked_s=asked_s)
        if pause_s is None:
            raise error
        yield Pause(pause_s)


def _usable(request_id: str | None) -> str:
    """The caller's id, or a new one: what timed out can be found in the server's log too."""
    if request_id is None:
        return f"req_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    if not _USABLE_ID.fullmatch(request_id):
        raise ValueError("request_id: 1 to 128 letters, digits and . _ : -")
    return request_id


def _attempt(
    call: Call[T], identity: str, deadline_s: float, clock: Callable[[], float]
) -> Attempt:
    remaining_s = deadline_s - clock()
    # The answer needs a little of the time to come back: then the server says that it was too
    # late, and what it was busy with, instead of being cut off.
    way_back_s = min(0.1, remaining_s / 10)
    query, body = call.encode(1000 * (remaining_s - way_back_s))
    headers = {"Accept": call.accept, "X-Request-ID": identity}
    if body is not None:
        headers |= {"Content-Type": body.content_type, "Content-Length": str(body.length)}
    return Attempt(call.method, call.path, query, headers, body, deadline_s, clock)


def _is_understood(outcome: Outcome, call: Call[T]) -> bool:
    return isinstance(outcome, Answer) and (
        outcome.status < 400 or outcome.status in call.explained
    )


def _read(call: Call[T], outcome: Outcome, terms: Terms, identity: str) -> T:
    assert isinstance(outcome, Answer)
    try:
        return call.read(outcome)
    except Unreadable as error:
        raise _bad_answer(error, terms, identity) from error


def _error_of(outcome: Outcome, terms: Terms, identity: str, tries: int) -> ClientError:
    if isinstance(outcome, Answer):
        try:
            return problem_in(outcome, identity).as_error()
        except Unreadable as error:
            return _bad_answer(error, terms, identity)
    if outcome.timed_out:
        return TimedOut(
            f"no answer from {terms.server} in time; allow more with timeout_s, or ask less of "
            "the server at once",
            identity,
        )
    tried = f", {tries} times" if tries > 1 else ""
    advice = "; is the server running, and is this its address?" if outcome.may_pass else ""
    return ConnectionFailed(
        f"no answer from {terms.server}{tried} ({outcome.reason}){advice}",
        identity,
        may_pass=outcome.may_pass,
    )


def _bad_answer(error: Unreadable, terms: Terms, identity: str) -> BadAnswer:
    return BadAnswer(
        f"{terms.server} does not answer as RTMDet Serving does: {error}; check the address",
        identity,
    )


def _may_pass(error: ClientError) -> bool:
    """Whether the same request may be answered when it is sent again.

    All calls may be sent twice: a detection changes nothing, and what is loaded stays loaded.
    """
    if isinstance(error, ProblemError):
        return error.status in PASSING_STATUSES
    return isinstance(error, ConnectionFailed) and error.may_pass
