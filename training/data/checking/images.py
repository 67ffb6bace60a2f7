"""The images of all splits, judged: what decodes, how it is stored, what is there twice.

A file that equals another is a duplicate within a split and a leak between splits; so is one that
only looks like another, of which equal files are not told again.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from training.data.checking.file_facts import FileFacts
from training.data.checking.findings import FindingLog, Place
from training.data.checking.likeness import alike_pairs
from training.data.checking.pictures import Picture, PictureFile, file_digest, read_pictures
from training.data.checking.progress import Progress
from training.data.checking.survey import Survey
from training.data.formats.label_files import IMAGE_SUFFIXES

#: Grey images are told of where they are fewer than this share: else the set is of grey images.
_GREY_SHARE = 0.5
#: Where more than this share of the names is in both splits, images are numbered in each.
_NUMBERED_SHARE = 0.5


@dataclass(frozen=True)
class Reading:
    """How files are read. `max_images` of each split, spread evenly; None: all."""

    num_threads: int
    decodes: bool = True
    max_images: int | None = None


class ImagesChecked(NamedTuple):
    """How many images were decoded, and how many could not be of those that a split needs."""

    num_decoded: int
    num_undecodable: Counter[str]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A picture, and whose it is."""

    survey: Survey
    position: int
    picture: Picture

    @property
    def path(self) -> Path:
        return self.survey.paths[self.position]


def check_images(
    surveys: list[Survey], log: FindingLog, reading: Reading, progress: Progress
) -> ImagesChecked:
    """Look at the files of all images."""
    seen = [each for survey in surveys for each in _read(survey, reading, progress)]
    for survey in surveys:
        _note_storage([each for each in seen if each.survey is survey], log)
        _note_listed_twice(survey, log)
    same = _note_equal_files(seen, log)
    _note_alike([each for each in seen if id(each) not in same], log)
    _note_unlisted(surveys, log)
    _note_shared_names(surveys, log)
    undecodable = Counter(
        each.survey.split
        for each in seen
        if each.picture.fault is not None and each.survey.used[each.position]
    )
    num_decoded = sum(each.picture.fault is None for each in seen) if reading.decodes else 0
    return ImagesChecked(num_decoded, undecodable)


def _read(survey: Survey, reading: Reading, progress: Progress) -> Iterator[_Seen]:
    positions = range(len(survey))
    if reading.max_images is not None and len(positions) > reading.max_images:
        step = len(positions) / reading.max_images
        positions = [int(place * step) for place in range(reading.max_images)]
    # A file that is listed twice is one picture.
    first = {survey.paths[position]: position for position in reversed(positions)}
    kept = sorted(first.values())
    files = [
        PictureFile(survey.paths[each], survey.image_size(each), survey.are_upright)
        for each in kept
    ]
    doing = f"{'decoding' if reading.decodes else 'opening'} {survey.split}"
    pictures = read_pictures(
        files,
        num_threads=reading.num_threads,
        decodes=reading.decodes,
        progress=lambda done: progress(doing, done, len(files)),
    )
    for position, picture in zip(kept, pictures, strict=True):
        yield _Seen(survey, position, picture)


def _note_storage(seen: list[_Seen], log: FindingLog) -> None:
    num_grey = sum(each.picture.facts.channels == 1 for each in seen)
    for each in seen:
        picture, split = each.picture, each.survey.split
        if picture.fault is not None:
            code, what = picture.fault
            log.add(code, split, Place(each.path, "", what))
            continue
        for code, what in _oddities(picture.facts):
            if code != "grey-image" or num_grey < _GREY_SHARE * len(seen):
                log.add(code, split, Place(each.path, "", what))


def _oddities(facts: FileFacts) -> Iterator[tuple[str, str]]:
    if facts.channels == 1:
        yield "grey-image", ""
    if facts.bits > 8:
        yield "deep-image", f"{facts.bits} bits"
    if facts.is_cmyk:
        yield "cmyk-image", ""
    if facts.has_alpha:
        yield "transparent-image", ""
    if facts.orientation != 1:
        yield "turned-image", f"orientation {facts.orientation}"


def _note_listed_twice(survey: Survey, log: FindingLog) -> None:
    times = Counter(survey.paths)
    for path, count in times.items():
        if count > 1:
            log.add("image-listed-twice", survey.split, Place(path, "", f"{count} times"))


def _note_equal_files(seen: list[_Seen], log: FindingLog) -> set[int]:
    """Note files whose bytes equal those of an earlier one; the ids of those that are noted."""
    num_of_size = Counter(each.picture.num_bytes for each in seen)
    first: dict[tuple[int, bytes], _Seen] = {}
    noted: set[int] = set()
    for each in seen:
        size = each.picture.num_bytes
        if not size or num_of_size[size] < 2:
            continue
        digest = each.picture.digest or _digest(each.path)
        if digest is None:
            continue
        known = first.setdefault((size, digest), each)
        if known is not each:
            noted.add(id(each))
            code = "duplicate-image" if known.survey is each.survey else "leaked-image"
            place = Place(each.path, "", f"equals {known.path}", like=known.path)
            log.add(code, each.survey.split, place)
    return noted


def _digest(path: Path) -> bytes | None:
    """Of a file that could be opened before; None where it cannot be read any more."""
    try:
        return file_digest(path)
    except OSError:
        return None


def _note_alike(seen: list[_Seen], log: FindingLog) -> None:
    told: set[tuple[str, int]] = set()
    for first, second in alike_pairs([each.picture.likeness for each in seen]):
        a, b = seen[first], seen[second]
        code = "near-duplicate-image" if a.survey is b.survey else "near-leaked-image"
        # One picture may look like many; once is enough.
        if (code, second) not in told:
            told.add((code, second))
            place = Place(b.path, "", f"looks like {a.path}", like=a.path)
            log.add(code, b.survey.split, place)


def _note_unlisted(surveys: list[Survey], log: FindingLog) -> None:
    """Files beside COCO's images that no split lists; the other formats list what is there."""
    # Images that are refused are listed, but not known here; splits may share a folder.
    if not all(survey.is_sound for survey in surveys):
        return
    # Not Path.resolve, which raises for links that turn in circles.
    listed = {os.path.realpath(path) for survey in surveys for path in survey.paths}
    looked: set[Path] = set()
    for survey in surveys:
        if survey.source.format != "coco":
            continue
        for folder in sorted({path.parent for path in survey.paths} - looked):
            looked.add(folder)
            for file in _files_in(folder):
                is_image = file.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(file)
                is_hidden = file.name.startswith(".")
                if is_image and not is_hidden and os.path.realpath(file) not in listed:
                    log.add("unlisted-image", survey.split, Place(file))


def _files_in(folder: Path) -> list[Path]:
    """Sorted; none where the folder lets its files be opened, but not be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _note_shared_names(surveys: list[Survey], log: FindingLog) -> None:
    if len(surveys) < 2:
        return
    train, val = ({path.name: path for path in survey.paths} for survey in surveys)
    shared = [name for name in val if name in train and train[name] != val[name]]
    if len(shared) <= _NUMBERED_SHARE * min(len(val), len(train)):
        for name in shared:
            log.add("same-file-name", "val", Place(val[name], "", f"also {train[name]}"))
