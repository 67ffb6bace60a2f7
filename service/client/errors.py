"""Everything that a call of the client raises about the server, as one tree.

    ClientError
    ├── ConnectionFailed          no answer: nobody listens, the line broke, a wrong certificate
    │   └── TimedOut              no answer within the call's `timeout_s`
    ├── ProblemError              the server refused or failed, and `code` says why
    │   ├── RequestRefused        400, 404, 413, 415, 422: mend the picture or the option
    │   ├── Unauthenticated       401: give an API key that the server knows
    │   ├── Forbidden             403: the key is known and may not do this
    │   ├── Unavailable           429, 503: too much to do, loading or draining; try later
    │   └── DeadlineExceeded      504: the server had no answer in the time that it was given
    └── BadAnswer                 what answered is not this service, or is broken

`TimedOut` and `DeadlineExceeded` are `TimeoutError` too: who waits minds little which end gave up.
A mistake in the call itself is a TypeError, a ValueError or an OSError, before anything is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field: a JSON pointer (RFC 6901) into the request, and a sentence."""

    pointer: str
    detail: str


@dataclass(frozen=True)
class Problem:
    """Why the server has no result (RFC 9457): `code` is stable, `detail` says what to do.

    `limits` are what was exceeded, such as `max_image_bytes`.
    """

    status: int
    code: str
    detail: str
    title: str = ""
    request_id: str = ""
    errors: tuple[FieldError, ...] = ()
    limits: Mapping[str, int | float] = field(default_factory=dict[str, int | float])
    retry_after_ms: int | float | None = None

    @property
    def retry_after_s(self) -> float | None:
        """After how long the server asks to be tried again, in seconds."""
        return None if self.retry_after_ms is None else self.retry_after_ms / 1000

    def as_error(self) -> "ProblemError":
        """The exception of the class that fits the status, for raising."""
        return _class_of(self.status)(self)


class ClientError(Exception):
    """Base of the tree. `request_id` is what the server's log knows the request by."""

    def __init__(self, message: str, request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class ConnectionFailed(ClientError):
    """No answer. `may_pass` is False where trying again cannot help, as with a certificate."""

    def __init__(self, message: str, request_id: str = "", *, may_pass: bool = True) -> None:
        super().__init__(message, request_id)
        self.may_pass = may_pass


class TimedOut(ConnectionFailed, TimeoutError):
    """No answer within the time that the call allowed."""


class ProblemError(ClientError):
    """The server refused or failed; the attributes are those of its `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail} [{problem.status} {problem.code}]", problem.request_id)
        # Unpickling makes the error of these.
        self.args = (problem,)
        self.problem = problem
        self.status = problem.status
        self.code = problem.code
        self.detail = problem.detail
        self.errors = problem.errors
        self.limits = problem.limits
        self.retry_after_s = problem.retry_after_s


class RequestRefused(ProblemError):
    """The picture, an option or the model's name is at fault; sent again it is refused again."""


class Unauthenticated(ProblemError):
    """No API key, or one that the server does not know."""


class Forbidden(ProblemError):
    """The API key is known and may not do this."""


class Unavailable(ProblemError):
    """Too much to do, loading, or draining: the same request may succeed later."""


class DeadlineExceeded(ProblemError, TimeoutError):
    """The server had no answer in the time that it was given."""


class BadAnswer(ClientError):
    """What answered is not this service, or is broken."""


_OF_STATUS: dict[int, type[ProblemError]] = {
    401: Unauthenticated,
    403: Forbidden,
    429: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


def _class_of(status: int) -> type[ProblemError]:
    return _OF_STATUS.get(status, RequestRefused if 400 <= status < 500 else ProblemError)
