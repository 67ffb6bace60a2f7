"""What someone may have meant by a name that there is not."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """The end of a message: the nearest names, or all of them where none is near.

    >>> nearest_hint("rtmdet-timy", ["rtmdet-tiny", "cspnext-x"])
    "; did you mean 'rtmdet-tiny'?"
    """
    names = list(known)
    near = nearest_names(name, names)
    if near:
        return f"; did you mean {' or '.join(repr(each) for each in near)}?"
    return f"; there are: {', '.join(names)}"


def nearest_names(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """At most three of the known names, the most similar first; none below `cutoff` (0 to 1)."""
    return get_close_matches(name, list(known), n=3, cutoff=cutoff)
