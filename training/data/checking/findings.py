"""What was found, counted by kind and split, the first few places kept by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training.data.checking.kinds import KINDS, SEVERITIES, Kind
from training.data.formats.records import ImageRecord

#: Places that are kept of a kind in a split; the others are counted.
MAX_PLACES = 10


@dataclass(frozen=True)
class Place:
    """Where something was found.

    `file` holds the record, or is the image; `record` names the entry inside it ("annotation 7",
    "line 3"). `what` says what is the matter there, where the kind does not say it all. `image` is
    what to draw, in which the instances at the positions `marked` are meant; `like` is the image
    file that `file` is like.
    """

    file: Path
    record: str = ""
    what: str = ""
    image: ImageRecord | None = None
    marked: tuple[int, ...] = ()
    like: Path | None = None


@dataclass(eq=False)
class Finding:
    """All of one kind in one split."""

    kind: Kind
    split: str
    count: int = 0
    places: list[Place] = field(default_factory=list)
    #: How many of how many, where that says more than the count.
    share: str = ""

    def add(self, place: Place) -> None:
        """One occurrence; the first few keep their place."""
        self.count += 1
        if len(self.places) < MAX_PLACES:
            self.places.append(place)


class FindingLog:
    """Collects the findings of all splits."""

    def __init__(self) -> None:
        self._findings: dict[tuple[str, str], Finding] = {}

    def add(self, code: str, split: str, place: Place) -> None:
        """One occurrence of a kind."""
        key = (code, split)
        self._findings.setdefault(key, Finding(KINDS[code], split)).add(place)

    def add_whole(self, finding: Finding, share: str) -> None:
        """A finding that was counted elsewhere, with what share of the split it is."""
        finding.share = share
        self._findings[finding.kind.code, finding.split] = finding

    def __iter__(self) -> Iterator[Finding]:
        """The gravest first, of those the most frequent."""

        def rank(finding: Finding) -> tuple[int, int]:
            return SEVERITIES.index(finding.kind.severity), -finding.count

        return iter(sorted(self._findings.values(), key=rank))
