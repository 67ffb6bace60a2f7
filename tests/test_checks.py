"""How broken data are told."""

from pathlib import Path

import pytest

from training.data.formats.checks import MAX_LISTED, BrokenData, Findings, broken

SET = Path("set/train.json")


def error_of(*places: Path, source: Path = SET) -> BrokenData:
    """The error for a problem in each of these files."""
    findings = Findings(source)
    for number, place in enumerate(places):
        findings.problem(place, f"image {number}", "is named twice")
    with pytest.raises(BrokenData) as caught:
        findings.require_none()
    return caught.value


def test_broken_data__names_its_file_once() -> None:
    assert str(error_of(SET)) == "broken data in set/train.json: image 0: is named twice"


def test_broken_data__names_a_file_inside_its_folder() -> None:
    error = error_of(Path("set/a.txt"), source=Path("set"))
    assert str(error) == "broken data in set: set/a.txt: image 0: is named twice"


def test_broken_data__names_a_file_that_begins_alike() -> None:
    error = error_of(Path("set/train.json.txt"))
    assert (
        str(error) == "broken data in set/train.json: set/train.json.txt: image 0: is named twice"
    )


def test_broken_data__says_how_many_more() -> None:
    assert str(error_of(SET, SET)).endswith("is named twice (and 1 more problem)")


def test_broken_data__reports_one_problem_in_one_line() -> None:
    assert broken(SET, "no JSON").report() == "broken data in set/train.json: no JSON"


def test_broken_data__reports_several_problems_line_by_line() -> None:
    assert error_of(SET, Path("b.png")).report() == (
        "broken data in set/train.json: 2 problems\n"
        "  image 0: is named twice\n"
        "  b.png: image 1: is named twice"
    )


def test_broken_data__reports_how_many_are_not_listed() -> None:
    assert error_of(*[SET] * (MAX_LISTED + 3)).report().splitlines()[-1] == "  and 3 more"
