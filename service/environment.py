"""Which variables of the environment are ours: a misspelt one must not be ignored silently.

Every `RTMDET_*` that any part of the product reads and that is no setting of the server stands
here; a test holds that.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

PREFIX = "RTMDET_"

#: Variables that are no settings of the server, and who reads them.
OTHERS = {
    "RTMDET_API_KEY": "clients",
    "RTMDET_GPU_TESTS_ON": "the tests",
    "RTMDET_LAUNCHER_PID": "the ranks of a training",
    "RTMDET_MIRROR": "rtmdet models pull",
    "RTMDET_SHARED": "the tests",
    "RTMDET_URL": "clients",
}

#: What Kubernetes sets in every pod for a Service named `rtmdet`: it takes the name of our port.
_LINK_SCHEMES = ("tcp://", "udp://", "sctp://")


@dataclass(frozen=True)
class UnknownVariable:
    """A variable that nothing reads, and what may have been meant."""

    name: str
    meant: str | None

    @property
    def hint(self) -> str:
        """What to do about it."""
        return f"did you mean {self.meant}?" if self.meant else "unset it"

    def __str__(self) -> str:
        return f"{self.name}: there is no such setting; {self.hint}"


def unknown_variables(
    environment: Mapping[str, str], settings: Collection[str]
) -> list[UnknownVariable]:
    """Variables of `environment` that look like ours and are not; `settings` are fields' names.

    What Kubernetes sets for Services whose names begin with `rtmdet` is somebody else's.
    """
    known = {f"{PREFIX}{name.upper()}" for name in settings} | set(OTHERS)
    given = {name for name in environment if name.upper().startswith(PREFIX)}
    unknown = sorted(each for each in given if each.upper() not in known)
    links = _link_prefixes(environment)
    return [
        UnknownVariable(name, _nearest(name.upper(), known))
        for name in unknown
        if not name.startswith(links)
    ]


def is_service_link(value: object) -> bool:
    """Whether a variable's value is Kubernetes' address of a Service."""
    return isinstance(value, str) and value.startswith(_LINK_SCHEMES)


def _link_prefixes(environment: Mapping[str, str]) -> tuple[str, ...]:
    """What the names begin with that Kubernetes sets for each of its Services."""
    ending = "_SERVICE_HOST"
    services = [name.removesuffix(ending) for name in environment if name.endswith(ending)]
    return tuple(f"{service}{part}" for service in services for part in ("_SERVICE_", "_PORT"))


def _nearest(name: str, known: Collection[str]) -> str | None:
    # Compared without what all have in common, which would make everything look near.
    bare = {each.removeprefix(PREFIX): each for each in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
    return bare[near[0]] if near else None
