"""ASGI middleware that asks the gate before anything of a request's body is read."""

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.clients import Caller
from service.access.gate import Gate
from service.access.presented import API_KEY, AUTHORIZATION, presented_keys
from service.errors import ServiceError
from service.http_api.problems import plain_response, problem_code, problem_response
from service.http_api.route_needs import NOWHERE, UNLISTED, RouteRule, rule_for
from service.request_context import request_id

if TYPE_CHECKING:
    from service.access.rate_limits import Allowance

_READING = ("GET", "HEAD")


class AccessControl:
    """Lets through whom the gate admits; `state.caller` says who it is.

    Answers everybody else itself: 401, 403, 429, and 404 to those with a key. `state.route` then
    says which route was wanted.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        rule = _rule(scope)
        state: dict[str, object] = scope.setdefault("state", {})
        try:
            caller = self._admit(scope, rule)
            state["caller"] = caller
            # What the access log shows.
            state["client_name"] = caller.key_name
            if rule.is_rate_limited and self._gate.rates is not None:
                send = self._saying_what_remains(caller, send)
                self._gate.rates.charge(caller.identity)
        except ServiceError as error:
            state["route"] = rule.path
            state["problem"] = error.code
            refusal = problem_response(error, instance=scope["path"], request_id=request_id.get())
            await refusal(scope, receive, send)
            return
        if rule is NOWHERE:
            state["problem"] = problem_code(HTTPStatus.NOT_FOUND.phrase)
            await _not_found(scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, rule: RouteRule) -> Caller:
        headers = Headers(scope=scope)
        self._gate.guard_from_web_pages(
            hosts=headers.getlist("host"),
            origins=headers.getlist("origin"),
            # A web socket has no method, and what goes through it may be anything.
            is_reading=scope.get("method") in _READING,
        )
        keys = presented_keys(headers.getlist(AUTHORIZATION), headers.getlist(API_KEY))
        client: tuple[str, int] | None = scope.get("client")
        return self._gate.admit(rule.need, keys, client[0] if client is not None else "")

    def _saying_what_remains(self, caller: Caller, send: Send) -> Send:
        rates = self._gate.rates
        assert rates is not None

        async def send_with_allowances(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                allowances = rates.allowances(caller.identity)
                headers["RateLimit-Policy"] = _policies(allowances)
                headers["RateLimit"] = _remaining(allowances)
            await send(message)

        return send_with_allowances


def caller_of(request: Request) -> Caller:
    """Who sent a request that was let through."""
    return request.state.caller


def charge_images(request: Request, num_images: int) -> None:
    """Count a request of several pictures for all of them; the first was counted on arrival.

    To be called once their number is known, and before work begins. Raises RateLimited, and
    TooManyImages for more than will ever be allowed at once.
    """
    gate: Gate = request.app.state.gate
    if gate.rates is not None:
        gate.rates.charge(caller_of(request).identity, num_images, num_paid=1)


def _rule(scope: Scope) -> RouteRule:
    rule = rule_for(scope["path"])
    if rule is not UNLISTED:
        return rule
    # Matching leaves traces in the scope.
    matches = (route.matches(dict(scope))[0] for route in scope["app"].routes)
    return NOWHERE if all(match is Match.NONE for match in matches) else UNLISTED


def _not_found(scope: Scope) -> Response:
    """Answered here, so that nothing outside the table is ever reached without `admin`."""
    method, path = scope.get("method", ""), scope["path"]
    return plain_response(404, method=method, path=path, request_id=request_id.get())


# The two headers of draft-ietf-httpapi-ratelimit-headers-10: structured fields, whose items are
# named after the limit as it stands in the settings.


def _policies(allowances: "Sequence[Allowance]") -> str:
    return ", ".join(f'"{each.policy}";q={each.amount};w={each.window_s}' for each in allowances)


def _remaining(allowances: "Sequence[Allowance]") -> str:
    return ", ".join(
        f'"{each.policy}";r={each.remaining};t={math.ceil(each.reset_s)}' for each in allowances
    )
