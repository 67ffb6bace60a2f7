"""How the fake runtime behaves when nobody programs it: its pace, its size, its faults on demand.

Written as one setting, RTMDET_FAKE:

    call_ms=0.5,image_ms=0.4,max_batch=16,detections=20,fail_every=100,hang_every=5000

| name | default | meaning |
| --- | --- | --- |
| `call_ms`, `image_ms` | 0 | what a call takes, and each picture in it |
| `jitter` | 0 | a call takes longer by up to this share, drawn by `seed` |
| `seed` | 0 | the same seed draws the same times |
| `max_batch`, `concurrency` | 8, 1 | pictures in one call, calls at once |
| `detections` | 1 | per picture, of the model's classes in turn |
| `fail_every` | | every n-th call raises |
| `hang_every` | | every n-th call does not come back until the runtime is closed |
| `nan_every` | | every n-th call gives NaN for boxes and scores |
| `misshape_every` | | every n-th call gives a row too few |
| `fail_pixel` | | a picture whose first pixel has this colour (rrggbb) makes its call raise |

Calls with nothing but black pictures, as the server makes them to warm up and to see whether a
model answers, are not counted and go well.
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class FakePlan:
    """What the module's table says; `fail_pixel` is (b, g, r), a fault that is None never comes.

    A call counts once for each fault, whether it came with one picture or several.
    """

    call_ms: float = 0.0
    image_ms: float = 0.0
    jitter: float = 0.0
    seed: int = 0
    max_batch: int = 8
    concurrency: int = 1
    detections: int = 1
    fail_every: int | None = None
    hang_every: int | None = None
    nan_every: int | None = None
    misshape_every: int | None = None
    fail_pixel: tuple[int, int, int] | None = None


def parse_fake_plan(text: str) -> FakePlan:
    """A plan from "name=value,name=value"; an empty text is the default plan.

    Raises ValueError that names the part that is wrong and says what is expected.
    """
    values: dict[str, object] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals:
            raise ValueError(f"'{part}': write name=value, as in call_ms=0.5")
        if name not in _READERS:
            raise ValueError(f"'{part}': {_unknown(name)}")
        if name in values:
            raise ValueError(f"'{part}': {name} is there already")
        try:
            values[name] = _READERS[name](value)
        except ValueError as error:
            raise ValueError(f"'{part}': {error}") from None
    return FakePlan(**values)  # pyright: ignore[reportArgumentType] - each reader gives its type


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _READERS, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are {', '.join(_READERS)}"


def _amount(text: str) -> float:
    """A finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("expected a number that is not negative")
    return value


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) < least:
        raise ValueError(f"expected a whole number, at least {least}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 1)


def _share(text: str) -> float:
    value = _amount(text)
    if value > 1:
        raise ValueError("expected a share from 0 to 1")
    return value


def _colour(text: str) -> tuple[int, int, int]:
    """Rrggbb to (b, g, r)."""
    if not re.fullmatch(r"[0-9a-fA-F]{6}", text):
        raise ValueError("expected a colour as rrggbb, as in ff00ff")
    red, green, blue = bytes.fromhex(text)
    return blue, green, red


_READERS: dict[str, Callable[[str], object]] = {
    "call_ms": _amount,
    "image_ms": _amount,
    "jitter": _share,
    "seed": _whole,
    "max_batch": _count,
    "concurrency": _count,
    "detections": _count,
    "fail_every": _count,
    "hang_every": _count,
    "nan_every": _count,
    "misshape_every": _count,
    "fail_pixel": _colour,
}
assert [field.name for field in fields(FakePlan)] == list(_READERS)
