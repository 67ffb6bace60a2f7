"""Asks the gate before anything of a request's body is read."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.routing import Match
from starlette.types import Scope

from service.access.clients import Caller
from service.access.gate import Gate
from service.access.presented import API_KEY, AUTHORIZATION, presented_keys
from service.http_api.request_record import record_of
from service.http_api.route_needs import NOWHERE, UNLISTED, RouteRule, rule_for

if TYPE_CHECKING:
    from service.access.rate_limits import Allowance

_READING = ("GET", "HEAD")

_HOST, _ORIGIN = "host", "origin"
_ASKED_FOR = {name.encode(): name for name in (_HOST, _ORIGIN, AUTHORIZATION, API_KEY)}


class AccessControl:
    """Knows which route asks for what, and whom the gate admits there."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def rule(self, scope: Scope) -> RouteRule:
        """What the route that is asked for needs; `NOWHERE` where there is none."""
        rule = rule_for(scope["path"])
        if rule is not UNLISTED:
            return rule
        # Matching leaves traces in the scope.
        matches = (route.matches(dict(scope))[0] for route in scope["app"].routes)
        return NOWHERE if all(match is Match.NONE for match in matches) else UNLISTED

    def admit(self, scope: Scope, rule: RouteRule, address: str) -> Caller:
        """Who asks, from `address`. Raises Unauthenticated, Forbidden."""
        values: dict[str, list[str]] = {name: [] for name in _ASKED_FOR.values()}
        for name, value in scope["headers"]:
            if name in _ASKED_FOR:
                values[_ASKED_FOR[name]].append(value.decode("latin-1"))
        self._gate.guard_from_web_pages(
            hosts=values[_HOST],
            origins=values[_ORIGIN],
            # A web socket has no method, and what goes through it may be anything.
            is_reading=scope.get("method") in _READING,
        )
        keys = presented_keys(values[AUTHORIZATION], values[API_KEY])
        return self._gate.admit(rule.need, keys, address)

    def charge(self, caller: Caller) -> None:
        """Count a request. Raises RateLimited."""
        if self._gate.rates is not None:
            self._gate.rates.charge(caller.identity)

    def what_remains(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """Headers that say what the caller may still ask for."""
        if self._gate.rates is None:
            return []
        allowances = self._gate.rates.allowances(caller.identity)
        return [
            (b"ratelimit-policy", _policies(allowances).encode("latin-1")),
            (b"ratelimit", _remaining(allowances).encode("latin-1")),
        ]


def caller_of(request: Request) -> Caller:
    """Who sent a request that was let through."""
    caller = record_of(request).caller
    assert caller is not None
    return caller


def charge_images(request: Request, num_images: int) -> None:
    """Count a request of several pictures for all of them; the first was counted on arrival.

    To be called once their number is known, and before work begins. Raises RateLimited, and
    TooManyImages for more than will ever be allowed at once.
    """
    gate: Gate = request.app.state.gate
    if gate.rates is not None:
        gate.rates.charge(caller_of(request).identity, num_images, num_paid=1)


# The two headers of draft-ietf-httpapi-ratelimit-headers-10: structured fields, whose items are
# named after the limit as it stands in the settings.


def _policies(allowances: "Sequence[Allowance]") -> str:
    return ", ".join(f'"{each.policy}";q={each.amount};w={each.window_s}' for each in allowances)


def _remaining(allowances: "Sequence[Allowance]") -> str:
    return ", ".join(
        f'"{each.policy}";r={each.remaining};t={math.ceil(each.reset_s)}' for each in allowances
    )
