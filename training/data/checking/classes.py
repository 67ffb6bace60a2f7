"""The classes of the splits: which there are, how many instances each has, how they are called."""

import re
from collections import defaultdict

from training.data.checking.findings import FindingLog, Place
from training.data.checking.survey import Survey

_RARE = 10
_IMBALANCE = 100

Counts = dict[str, int]


def check_classes(surveys: list[Survey], log: FindingLog) -> None:
    """Compare the classes of the splits, of which the first is the one to train on."""
    train = surveys[0]
    counts = train.trained_counts()
    _note_balance(train, counts, log)
    _note_similar_names(surveys, log)
    for val in surveys[1:]:
        if train.is_complete and val.is_complete:
            _note_missing(val, counts, log)
            _note_different(train, val, log)


def _note_balance(train: Survey, counts: Counts, log: FindingLog) -> None:
    most = max(counts.values(), default=0)
    # Nothing is missing in particular where all is, or the reading ended before.
    for name, count in counts.items() if train.is_complete and most else ():
        place = Place(train.source.path, f"class '{name}'", f"{count:,}" if count else "")
        if count == 0:
            log.add("unused-category", train.split, place)
        elif count < _RARE:
            log.add("rare-class", train.split, place)
        elif count * _IMBALANCE < most:
            log.add("class-imbalance", train.split, place)


def _note_missing(val: Survey, counts: Counts, log: FindingLog) -> None:
    found = val.trained_counts()
    for name, count in counts.items():
        if count and not found.get(name):
            log.add("class-missing-in-val", val.split, Place(val.source.path, f"class '{name}'"))


def _note_similar_names(surveys: list[Survey], log: FindingLog) -> None:
    names = dict.fromkeys(name for survey in surveys for name in (*survey.classes, *survey.names))
    by_plain_name: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_plain_name[re.sub(r"[\s_-]+", "", name.casefold())].append(name)
    for alike in by_plain_name.values():
        for name in alike[1:]:
            source = next(each for each in surveys if name in {*each.classes, *each.names})
            place = Place(source.source.path, f"class '{name}'", f"like '{alike[0]}'")
            log.add("similar-names", source.split, place)


def _note_different(train: Survey, val: Survey, log: FindingLog) -> None:
    """Lists of classes that files state; where annotations alone name classes, counts say it."""
    if train.source.format != "coco":
        return
    for survey, other in ((train, val), (val, train)):
        for name in survey.listed:
            if name not in other.listed:
                place = Place(survey.source.path, f"class '{name}'", f"not listed in {other.split}")
                log.add("different-classes", survey.split, place)
