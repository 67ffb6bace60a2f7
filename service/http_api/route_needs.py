"""What each route asks of its caller, in one table. What is not in it needs the scope `admin`."""

import re
from dataclasses import dataclass, field

from service.access.gate import Need

#: Every route is there a second time below it.
V1_PREFIX = "/v1"


@dataclass(frozen=True)
class RouteRule:
    """What the routes of `path` ask for, whatever the method.

    In `path`, `{name}` stands for one segment, and `/*` at the end for everything below. Requests
    to routes that are `is_rate_limited` are counted.
    """

    path: str
    need: Need
    is_rate_limited: bool = False
    _pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        escaped = re.escape(self.path).replace(r"/\*", "/.+")
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", escaped), re.DOTALL)
        object.__setattr__(self, "_pattern", pattern)

    def covers(self, path: str) -> bool:
        """Whether `path`, decoded and without `/v1`, is one of these."""
        return self._pattern.fullmatch(path) is not None


RULES = (
    RouteRule("/detect", "detect", is_rate_limited=True),
    RouteRule("/detect:batch", "detect", is_rate_limited=True),
    RouteRule("/detect/*", "detect", is_rate_limited=True),
    RouteRule("/livez", "nothing"),
    RouteRule("/readyz", "nothing"),
    RouteRule("/", "nothing"),
    RouteRule("/docs", "nothing"),
    RouteRule("/openapi.json", "nothing"),
    RouteRule("/problems/{code}", "nothing"),
    RouteRule("/models", "any-key"),
    RouteRule("/limits", "any-key"),
    RouteRule("/metrics", "any-key"),
    RouteRule("/models/{name}/load", "admin"),
    RouteRule("/models/{name}/unload", "admin"),
    RouteRule("/train", "train"),
    RouteRule("/train/*", "train"),
    RouteRule("/datasets", "train"),
    RouteRule("/datasets/*", "train"),
)

#: For a route that the table does not have, and for a path where there is none: whoever has a key
#: may know that.
UNLISTED = RouteRule("other", "admin")
NOWHERE = RouteRule("other", "any-key")


def rule_for(path: str) -> RouteRule:
    """The rule for a request's path, percent-decoded as the router sees it.

    A slash at the end makes no difference: the router redirects from there.
    """
    if (path + "/").startswith(V1_PREFIX + "/"):
        path = path.removeprefix(V1_PREFIX)
    path = path.rstrip("/") or "/"
    return next((rule for rule in RULES if rule.covers(path)), UNLISTED)
