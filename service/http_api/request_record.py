"""What is known of one request: filled in while it is served, told when it has been answered."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Scope

from service.access.clients import Caller
from service.http_api.request_ids import request_id_of
from service.request_context import NO_REQUEST

#: Stands for the status of a request whose client did not wait for the answer.
CLIENT_GONE = 499

_PLACE = "record"


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request over HTTP.

    `route` is the path of the route that was asked for, with names in place of values; None where
    there is none. `model` is the one that answers, `problem` the code of a refusal.
    """

    method: str
    path: str
    address: str
    request_id: str
    began_s: float = field(default_factory=time.monotonic)
    route: str | None = None
    caller: Caller | None = None
    model: str = ""
    problem: str | None = None
    client_gone: bool = False
    #: Of the answer; 500 until it begins.
    status: int = 500
    has_begun: bool = False
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def code(self) -> int:
        """The status, or what stands for it."""
        return CLIENT_GONE if self.client_gone else self.status

    @property
    def duration_s(self) -> float:
        """Seconds since its head came."""
        return time.monotonic() - self.began_s


def open_record(scope: Scope) -> RequestRecord:
    """The record of a request that has just come."""
    client: tuple[str, int] | None = scope.get("client")
    record = RequestRecord(
        method=scope["method"],
        path=scope["path"],
        address=client[0] if client is not None else "",
        request_id=request_id_of(scope["headers"]),
    )
    scope.setdefault("state", {})[_PLACE] = record
    return record


def record_of(request: Request) -> RequestRecord:
    """That of a request which is being served; an empty one where nobody opened one."""
    state: dict[str, RequestRecord] = request.scope.setdefault("state", {})
    if _PLACE not in state:
        state[_PLACE] = RequestRecord(request.method, request.url.path, "", NO_REQUEST)
    return state[_PLACE]
