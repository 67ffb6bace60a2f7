"""Addresses of servers as people write them on a command line."""

import os
import re

# A name or a bracketed IPv6 address, with a port, and a path perhaps.
_HOST_AND_PORT = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):\d+(?:/.*)?")


def is_address(text: str) -> bool:
    """Whether this is an address where it could be a file too.

    >>> is_address("localhost:8000"), is_address("street.jpg")
    (True, False)
    """
    return "://" in text or (bool(_HOST_AND_PORT.fullmatch(text)) and not os.path.exists(text))


def with_scheme(text: str) -> str:
    """A URL; what has a port and no scheme is one of http.

    >>> with_scheme("localhost:8000")
    'http://localhost:8000'
    """
    return f"http://{text}" if _HOST_AND_PORT.fullmatch(text) else text


def base_url(text: str) -> str:
    """The URL that a server's paths begin with; people also give that of its detections.

    >>> base_url("https://example.org/vision/detect")
    'https://example.org/vision'
    """
    return re.sub(r"/detect/*$", "", with_scheme(text))
