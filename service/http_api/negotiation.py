"""Which of the answer formats a client wants, by its Accept header (RFC 9110 section 12.5.1)."""

from collections.abc import Sequence
from functools import lru_cache

from service.errors import NotAcceptable

JSON = "application/json"
JPEG = "image/jpeg"
PNG = "image/png"

#: In the order of our preference, for where the client has none.
OFFERED = (JSON, JPEG, PNG)


@lru_cache(maxsize=256)
def choose_media_type(accept: str | None, offered: Sequence[str] = OFFERED) -> str:
    """The offered type that the client prefers; JSON without a header. Raises NotAcceptable."""
    if accept is None or not accept.strip():
        return JSON
    ranges = [_parse_range(part) for part in accept.split(",") if part.strip()]
    best = max(offered, key=lambda each: (_quality(each, ranges), -offered.index(each)))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"Accept '{accept}' allows none of {', '.join(offered)}")
    return best


def _parse_range(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return media_range.lower(), min(max(float(value), 0.0), 1.0)
            except ValueError:
                return media_range.lower(), 0.0
    return media_range.lower(), 1.0


def _quality(offered: str, ranges: list[tuple[str, float]]) -> float:
    """What the most specific range that covers `offered` says of it."""
    kind = offered.partition("/")[0]
    for covering in (offered, f"{kind}/*", "*/*"):
        matching = [quality for media_range, quality in ranges if media_range == covering]
        if matching:
            return max(matching)
    return 0.0
