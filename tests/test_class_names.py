import json
from pathlib import Path

import pytest

from model.checkpoints.class_names import COCO, DOTA, checked_classes, parse_classes


def test_classes__of_the_data_sets_have_the_published_numbers() -> None:
    assert (len(COCO), len(DOTA)) == (80, 15)
    assert (COCO[0], COCO[39], COCO[79]) == ("person", "bottle", "toothbrush")
    assert checked_classes(COCO) == COCO
    assert checked_classes(DOTA) == DOTA


@pytest.mark.parity
def test_classes__of_coco_stand_in_the_order_of_its_annotations(shared_folder: Path) -> None:
    path = shared_folder / "data" / "coco-mini" / "instances_val.json"
    categories = json.loads(path.read_text())["categories"]
    assert tuple(row["name"] for row in sorted(categories, key=lambda row: row["id"])) == COCO


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("coco", COCO),
        ("dota", DOTA),
        ("person", ("person",)),
        ("cat,dog", ("cat", "dog")),
        (" traffic light , dog ", ("traffic light", "dog")),
    ],
)
def test_parse_classes__takes_data_sets_and_lists(text: str, classes: tuple[str, ...]) -> None:
    assert parse_classes(text) == classes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "cat\n traffic light \n\nNo, no\n"),
        ("classes.json", '["cat", "traffic light", "No, no"]'),
    ],
)
def test_parse_classes__reads_files(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert parse_classes(str(path)) == ("cat", "traffic light", "No, no")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ('{"cat": 1}', "not a JSON list of names"),
        ("[1, 2]", "not a JSON list of names"),
        ("[]", "no classes"),
        ('["a", "a"]', "'a' is named twice"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_parse_classes__refuses_files_that_name_no_classes(
    tmp_path: Path, content: str | bytes, sentence: str
) -> None:
    path = tmp_path / "classes.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence):
        parse_classes(str(path))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cat,,dog", "class 1 is empty"),
        ("", "class 0 is empty"),
        ("cat,cat", "'cat' is named twice"),
        ("missing.txt", "missing.txt: No such file"),
        ("folder/missing", "No such file"),
    ],
)
def test_parse_classes__refuses_what_names_no_classes(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_classes(text)
