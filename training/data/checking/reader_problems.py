"""The problems that the readers of training name, as kinds of findings.

Readers tell people; which kind a message is of is told by its words. A message that no row knows is
a `broken-annotation` with all that it says, so that nothing is ever lost.
"""

import re
from pathlib import Path

from training.data.checking.findings import FindingLog, Place
from training.data.formats.checks import BrokenData, Findings

#: The first row whose words occur decides.
_KINDS_BY_WORDS = tuple(
    (re.compile(words), code)
    for words, code in (
        (r"no image has a box to train on|is empty: there is nothing", "nothing-to-train-on"),
        (r"image file is missing|image file is no file", "missing-image"),
        (r"the image file |is no image that can be read", "unreadable-image"),
        (r"^states \d+x\d+ pixels, but", "wrong-size"),
        (r"^is for image .*, which is none", "unknown-image"),
        (r"no image of this name", "stray-labels"),
        (r"has the same label file as", "shared-label-file"),
        (r"not among those that are trained", "untrained-class"),
        (r"^is of (category|class) .*which is none", "unknown-category"),
        (
            r"^category .*: |^'names'|^'nc'|^the name of class |^the class '|^no classes are named",
            "broken-categories",
        ),
        (r"the id stands twice", "repeated-id"),
        (r"not finite|beyond any image", "not-finite"),
        (r"negative size", "negative-box"),
        (r"at least 3 are needed|odd number of coordinates", "short-polygon"),
        (r"has a box alone", "missing-outline"),
        (r"run lengths", "broken-mask"),
        (r"not pixels", "pixel-coordinates"),
    )
)


def kind_of(what: str, *, of_whole_file: bool) -> str:
    """The code of the kind that a reader's message is of."""
    for words, code in _KINDS_BY_WORDS:
        if words.search(what) and (of_whole_file or code != "broken-categories"):
            return code
    return "broken-file" if of_whole_file else "broken-annotation"


class LoggedFindings(Findings):
    """Findings of a reader that are logged with their kind."""

    def __init__(self, source: Path, log: FindingLog, split: str) -> None:
        super().__init__(source)
        self._log = log
        self._split = split
        self._is_told = False

    def problem(self, file: Path, record: str, what: str) -> None:
        """Note what must be mended, as the reader does, and log it."""
        super().problem(file, record, what)
        code = kind_of(what, of_whole_file=False)
        self._log.add(code, self._split, Place(file, record, what))

    def require_none(self) -> None:
        """Raise BrokenData if there was any problem: all are logged by then."""
        self._is_told = True
        super().require_none()
        self._is_told = False

    def log_end(self, error: BrokenData) -> None:
        """Log what ended the reading, unless it is that there were problems."""
        if not self._is_told:
            log_broken(error, self._log, self._split)


def log_broken(error: BrokenData, log: FindingLog, split: str) -> None:
    """Log a file after which nothing more can be said."""
    (what,) = error.problems
    code = kind_of(what, of_whole_file=True)
    log.add(code, split, Place(error.source, "", what))
