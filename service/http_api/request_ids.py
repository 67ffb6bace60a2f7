"""Every request has an id: the client's own where it sent a usable one, else a new one."""

import random
import re
import time
from collections.abc import Iterable

HEADER = "X-Request-ID"

_NAME = HEADER.lower().encode()

_USABLE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id of a request with these headers, their names in lower case."""
    for name, value in headers:
        if name == _NAME and _USABLE.fullmatch(sent := value.decode("latin-1")):
            return sent
    return new_request_id()


def new_request_id() -> str:
    """Sorts by time: milliseconds since 1970, then 80 random bits, in hexadecimal."""
    return f"req_{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"
