"""Which request the running code works for, so that whatever logs can say so.

Context variables: a task inherits them, and `service.detector` hands them to its worker threads.
"""

from contextvars import ContextVar
from typing import NamedTuple

#: Stands for the id outside of requests.
NO_REQUEST = "-"

#: The id of the request that is being served.
request_id: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)


class SpanIds(NamedTuple):
    """A span of a trace, in the hexadecimal that W3C Trace Context writes."""

    trace_id: str
    span_id: str


#: The span that is under way; None while nothing is traced.
span_ids: ContextVar[SpanIds | None] = ContextVar("span_ids", default=None)
