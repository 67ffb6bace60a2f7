"""Whether a server may start as it is configured: none is open to a network by accident."""

import ipaddress
import logging

from service.settings import SettingsError

logger = logging.getLogger(__name__)


def check_exposure(host: str, *, num_usable_keys: int | None, allow_anonymous: bool) -> None:
    """Raise SettingsError for a server that others could use without a key, unless that is wanted.

    `host` is the address to listen on, `num_usable_keys` None where there is no file of keys.
    """
    if num_usable_keys is not None:
        _check_keys(host, num_usable_keys, allow_anonymous)
    elif allow_anonymous:
        logger.warning("no API keys are asked for: whoever reaches the server may use all of it")
    elif not is_loopback(host):
        raise SettingsError(
            f"host '{host}' can be reached by others: set RTMDET_API_KEYS_FILE "
            "(`rtmdet keys create NAME --scopes detect --file keys.jsonl` makes one), "
            "or RTMDET_ALLOW_ANONYMOUS=true to serve everyone"
        )


def _check_keys(host: str, num_usable: int, allow_anonymous: bool) -> None:
    if allow_anonymous:
        raise SettingsError(
            "RTMDET_API_KEYS_FILE and RTMDET_ALLOW_ANONYMOUS contradict each other; set one of them"
        )
    if num_usable > 0:
        return
    what = "the file of RTMDET_API_KEYS_FILE has no key that is valid"
    if not is_loopback(host):
        raise SettingsError(
            f"{what}, and host '{host}' can be reached by others; see `rtmdet keys`"
        )
    logger.warning("%s: every request that needs one is refused until there is", what)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there; of names, localhost is."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
