"""How each kind of mistake looks and reads, the same in pictures, charts and tables.

Kinds differ in colour, in line and in letter, so that none must be told by its colour alone. The
colours are those of Okabe and Ito, which people with any colour vision tell apart.
"""

from dataclasses import dataclass

from training.evaluation.mistakes import Outcome, Verdict


@dataclass(frozen=True)
class Kind:
    """`colour` (R, G, B); `dashes` are lengths in pixels, drawn and left out in turn, of a line
    of `width`; none for an unbroken one. A `letter` of "" stands for what needs no remark."""

    name: str
    letter: str
    colour: tuple[int, int, int]
    width: int
    dashes: tuple[int, ...]
    meaning: str

    @property
    def css_colour(self) -> str:
        """The colour as style sheets write it."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


RIGHT = Kind("right", "", (60, 205, 150), 1, (), "overlaps an instance of its class")
MISSED = Kind("missed", "M", (213, 94, 0), 2, (9, 5), "an instance without a right detection")
CONFUSED = Kind(
    "confused", "C", (86, 180, 233), 2, (10, 4, 2, 4), "on an instance of another class"
)
POORLY_PLACED = Kind(
    "poorly placed",
    "P",
    (240, 228, 66),
    2,
    (2, 4),
    "near an instance of its class, overlap too low",
)
FALSE = Kind("false", "F", (204, 121, 167), 3, (), "nothing of that kind is there")
DUPLICATE = Kind(
    "duplicate", "D", (235, 235, 235), 1, (4, 4), "on an instance that a stronger detection has"
)
NEITHER = Kind("not counted", "", (200, 200, 200), 1, (2, 5), "a crowd or a difficult instance")

OF_VERDICT = {
    Verdict.RIGHT: RIGHT,
    Verdict.DUPLICATE: DUPLICATE,
    Verdict.CONFUSED: CONFUSED,
    Verdict.POORLY_PLACED: POORLY_PLACED,
    Verdict.FALSE: FALSE,
    Verdict.NEITHER: NEITHER,
}

OF_OUTCOME = {
    Outcome.FOUND: RIGHT,
    Outcome.MISSED: MISSED,
    Outcome.CONFUSED: MISSED,
    Outcome.POORLY_PLACED: MISSED,
    Outcome.NEITHER: NEITHER,
}

#: In the order in which legends have them.
ALL = (RIGHT, MISSED, FALSE, CONFUSED, POORLY_PLACED, DUPLICATE, NEITHER)
