"""Who may do what: every interface asks the gate before it looks at the rest of a request."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from service.access.clients import Caller
from service.access.keys import ApiKey, Scope
from service.access.watched_keys import WatchedKeys
from service.access.web_pages import (
    refuse_names_of_other_machines,
    refuse_pages_of_other_sites,
)
from service.errors import Forbidden, Unauthenticated

if TYPE_CHECKING:
    from service.access.rate_limits import RateLimits

#: What a route or a method asks for: nothing, any key that is valid, or one with a scope.
Need = Literal["nothing", "any-key"] | Scope

_HOW_TO = "send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"


class Gate:
    """Admits callers by their keys; without `keys`, everyone whom the rules for web pages allow.

    `rates` counts what callers ask for; None counts nothing. `only_this_machine` says that the
    server is meant for programs on its own machine, so that no other name for it may be used.
    """

    def __init__(
        self,
        keys: WatchedKeys | None = None,
        rates: "RateLimits | None" = None,
        *,
        only_this_machine: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.rates = rates
        self._keys = keys
        self._only_this_machine = only_this_machine
        self._now = now

    def guard_from_web_pages(
        self, *, hosts: Sequence[str], origins: Sequence[str], is_reading: bool
    ) -> None:
        """Raise Forbidden for what a page of another site has a browser send.

        `hosts` and `origins` are the values of those headers; `is_reading` is whether the request
        only reads. Where keys are asked for no page has one, and everything passes.
        """
        if self._keys is not None:
            return
        if self._only_this_machine:
            refuse_names_of_other_machines(hosts)
        if not is_reading:
            refuse_pages_of_other_sites(origins, hosts)

    def admit(self, need: Need, presented: Collection[str], address: str) -> Caller:
        """Who asks, if they may. `presented` are the keys that came with the request.

        Raises Unauthenticated without a valid key, Forbidden for one that lacks the scope.
        """
        if self._keys is None or need == "nothing":
            return Caller(None, address)
        key = self._authenticate(self._keys, presented)
        if need != "any-key" and need not in key.scopes:
            raise Forbidden(
                f"this needs the scope '{need}'; the key '{key.name}' has {', '.join(key.scopes)}"
            )
        return Caller(key.name, address)

    def _authenticate(self, keys: WatchedKeys, presented: Collection[str]) -> ApiKey:
        if not presented:
            raise Unauthenticated(f"this needs an API key; {_HOW_TO}")
        if len(presented) > 1:
            raise Unauthenticated("the request carries different API keys; send one")
        (secret,) = presented
        key = keys.current().find(secret)
        if key is None:
            raise Unauthenticated(f"the API key is not known here; {_HOW_TO} with a valid one")
        if key.is_expired(self._now()):
            raise Unauthenticated(f"the API key '{key.name}' expired on {key.expires:%Y-%m-%d}")
        return key
