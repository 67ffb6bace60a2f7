"""Who asks: a key's name, or where there are no keys, the network address."""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

#: What one customer gets of IPv6: whoever has one address of it has all.
_IPV6_PREFIX_BITS = 64

#: An address that a proxy reports may be any text.
_MAX_ADDRESS_CHARACTERS = 64


@dataclass(frozen=True)
class Caller:
    """Who asks. `key_name` is None where no key was needed."""

    key_name: str | None
    address: str

    @property
    def identity(self) -> str:
        """By what requests are counted and take turns: the key, else the network."""
        if self.key_name is not None:
            return f"key:{self.key_name}"
        return f"address:{network_of(self.address)}"


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The address itself; of IPv6 its network of 64 bits, and of no address the text, cut.

    >>> network_of("2001:db8:1:2:3:4:5:6")
    '2001:db8:1:2::/64'
    >>> network_of("::ffff:192.0.2.7")
    '192.0.2.7'
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:_MAX_ADDRESS_CHARACTERS]
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_PREFIX_BITS), strict=False))
