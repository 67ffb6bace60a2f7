"""Keeps web pages in the user's own browser away from a server that asks for no key.

A browser sends any page's requests to this machine, and says from where they come: the name that
the page believes the server to have stands in `Host` (another one than this machine's after DNS
rebinding), the page's own origin in `Origin`.
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from service.errors import Forbidden

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/\s]+)(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def refuse_names_of_other_machines(hosts: Sequence[str]) -> None:
    """Raise Forbidden unless there is one `Host`: localhost, 127.0.0.0/8 or [::1], on any port."""
    if len(hosts) != 1 or not _is_this_machine(hosts[0]):
        raise Forbidden(
            f"the request is addressed to {_shown(hosts)}; without API keys this server answers "
            "to localhost, 127.0.0.1 and [::1] alone. To serve under other names, set "
            "RTMDET_API_KEYS_FILE or RTMDET_ALLOW_ANONYMOUS=true"
        )


def refuse_pages_of_other_sites(origins: Sequence[str], hosts: Sequence[str]) -> None:
    """Raise Forbidden for an `Origin` that is not the server's own, which `Host` names."""
    if not origins:
        return
    if len(origins) != 1 or len(hosts) != 1 or not _is_same_site(origins[0], hosts[0]):
        raise Forbidden(
            f"the request comes from a web page of another site, {_shown(origins)}; without API "
            "keys only pages of this server may send such requests"
        )


@lru_cache(maxsize=256)
def _is_this_machine(authority: str) -> bool:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    host = match["host"]
    return host.lower() == "localhost" or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        if host.startswith("["):
            return ipaddress.IPv6Address(host[1:-1]) == ipaddress.IPv6Address("::1")
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _is_same_site(origin: str, authority: str) -> bool:
    """Whether host and port are the same.

    Schemes are not compared: behind a proxy that ends TLS, the server does not know its own.
    """
    scheme, separator, site = origin.lower().partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return False
    default_port = _DEFAULT_PORTS[scheme]
    ours = _host_and_port(authority.lower(), default_port)
    return ours is not None and _host_and_port(site, default_port) == ours


def _host_and_port(authority: str, default_port: str) -> tuple[str, str] | None:
    match = _AUTHORITY.fullmatch(authority)
    return None if match is None else (match["host"], match["port"] or default_port)


def _shown(values: Sequence[str]) -> str:
    """What was sent, short enough for a message."""
    return ", ".join(repr(value[:100]) for value in values[:2]) or "nobody"
