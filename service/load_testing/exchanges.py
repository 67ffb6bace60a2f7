"""What became of each request of a run: values, and how they are sorted. Pure."""

from dataclasses import dataclass
from enum import Enum

#: The server is well and says that it will not take this request now.
REFUSING = (429, 503)

#: The server says that there is not time enough for this request.
EXPIRED = 504


class Outcome(Enum):
    """Every request that was scheduled is exactly one of these."""

    ANSWERED = "answered"
    REFUSED = "refused"
    EXPIRED = "expired"
    FAILED = "failed"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: a status, or the failure that came instead.

    `server_timing` is the header of that name. `excerpt` is the beginning of a body that is no
    success.
    """

    status: int | None = None
    failure: str | None = None
    server_timing: bytes = b""
    excerpt: str = ""

    @property
    def outcome(self) -> Outcome:
        """How it counts; any 2xx is good."""
        if self.status is None:
            return Outcome.FAILED
        if 200 <= self.status < 300:
            return Outcome.ANSWERED
        if self.status == EXPIRED:
            return Outcome.EXPIRED
        return Outcome.REFUSED if self.status in REFUSING else Outcome.FAILED

    @property
    def reason(self) -> str:
        """Why it failed, in a few words that are the same for every request that did alike."""
        return self.failure or f"status {self.status}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request. Times are seconds from the start of the run.

    `started_s` is when the generator took it up: it wrote it to a connection, or began to open
    one. A request for which there was no connection has no answer.
    """

    scheduled_s: float
    started_s: float
    ended_s: float
    answer: Answer | None

    @property
    def outcome(self) -> Outcome:
        """How it counts."""
        return Outcome.UNSENT if self.answer is None else self.answer.outcome

    @property
    def latency_s(self) -> float:
        """From when it should have left: what somebody who came at that moment waited."""
        return self.ended_s - self.scheduled_s

    @property
    def service_s(self) -> float:
        """From when it really left."""
        return self.ended_s - self.started_s

    @property
    def lag_s(self) -> float:
        """By how much the generator itself was late."""
        return self.started_s - self.scheduled_s
