"""Reading YOLO's text files: what a sound file gives, and how each fault is told."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Task
from tests.data_sets import HEIGHT, WIDTH, index_of, write_image, write_lines, write_yolo
from training.data.formats.checks import BrokenData
from training.data.formats.records import InstanceRecord
from training.data.formats.yolo import annotations_in

BOX = "1 0.5 0.5 0.25 0.4"
TRIANGLE = "0 0.25 0.1 0.5 0.1 0.25 0.5"
CORNERS = "0 0.25 0.1 0.5 0.1 0.5 0.5 0.25 0.5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


def fault(folder: Path, lines: list[str], task: Task = "detect") -> str:
    write_yolo(folder, lines)
    with pytest.raises(BrokenData) as caught:
        index_of(folder, task)
    return str(caught.value)


def test_reading__turns_centre_and_size_into_corners(folder: Path) -> None:
    write_yolo(folder, [BOX])

    annotations = index_of(folder).annotations(0)

    np.testing.assert_allclose(annotations.boxes, [[15, 9, 25, 21]])
    assert annotations.labels.tolist() == [1]


def test_reading__gives_polygons_in_pixels(folder: Path) -> None:
    write_yolo(folder, [TRIANGLE])

    outlines = index_of(folder, "instance").annotations(0).outlines

    assert outlines is not None
    np.testing.assert_allclose(outlines[0].polygons[0], [[10, 3], [20, 3], [10, 15]])


def test_reading__gives_boxes_around_polygons(folder: Path) -> None:
    write_yolo(folder, [TRIANGLE])

    np.testing.assert_allclose(index_of(folder).annotations(0).boxes, [[10, 3, 20, 15]])


def test_reading__turns_corners_into_a_rotated_box(folder: Path) -> None:
    write_yolo(folder, [CORNERS])

    (box,) = index_of(folder, "rotated").annotations(0).boxes

    np.testing.assert_allclose(box[:2], [15, 9])
    np.testing.assert_allclose(sorted(box[2:4]), [10, 12])


def test_reading__keeps_the_classes_of_the_yaml(folder: Path) -> None:
    write_yolo(folder, [BOX], names=("zebra", "ant", "bee"))

    index = index_of(folder)

    assert (index.classes, index.category_ids) == (("zebra", "ant", "bee"), (0, 1, 2))


def test_reading__calls_classes_without_names_by_number(folder: Path) -> None:
    write_yolo(folder, [BOX, "3 0.5 0.5 0.2 0.2"])
    (folder / "data.yaml").unlink()

    assert index_of(folder).classes == ("0", "1", "2", "3")


def test_reading__follows_folders_below_the_images(folder: Path) -> None:
    write_yolo(folder, [BOX])
    write_image(folder / "images" / "train" / "more" / "b.png")
    write_lines(folder / "labels" / "train" / "more" / "b.txt", [BOX, BOX])

    index = index_of(folder)

    assert [len(index.annotations(position)) for position in (0, 1)] == [1, 2]


def test_reading__follows_a_list_of_images(folder: Path) -> None:
    write_yolo(folder, [BOX])
    write_image(folder / "images" / "train" / "b.png")
    write_lines(folder / "train.txt", ["./images/train/a.png"])
    write_lines(folder / "data.yaml", ["names: [cat, dog]", "train: train.txt"])

    index = index_of(folder)

    assert [path.name for path in map(index.image_path, range(len(index)))] == ["a.png"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("cat 0.5 0.5 0.2 0.2", "must be a class number and numbers"),
        ("1 0.5 half 0.2 0.2", "must be a class number and numbers"),
        ("2 0.5 0.5 0.2 0.2", "is of class 2, which is none; there are 2, from 0"),
        ("-1 0.5 0.5 0.2 0.2", "is of class -1, which is none"),
        ("1 0.5 0.5 0.2", "has 3 numbers behind the class"),
        ("1", "has 0 numbers behind the class"),
        ("1 .1 .1 .2 .2 .3", "has 5 numbers behind the class"),
        ("1 .1 .1 .2 .2 .3 .3 .4", "has 7 numbers behind the class"),
        ("1 nan 0.5 0.2 0.2", "is not finite"),
        ("1 0.5 0.5 -0.2 0.2", "the box has a negative size"),
        ("1 300 200 40 50", "shares of the image's size"),
    ],
)
def test_faults__name_file_and_line(folder: Path, line: str, what: str) -> None:
    message = fault(folder, [BOX, "", line])

    assert "a.txt: line 3: " in message
    assert what in message


@pytest.mark.parametrize("task", ["instance", "rotated"])
def test_faults__a_box_where_an_outline_is_needed(folder: Path, task: Task) -> None:
    assert "a.txt: line 1: has a box alone" in fault(folder, [BOX], task)


def test_faults__labels_of_no_image(folder: Path) -> None:
    write_lines(folder / "labels" / "train" / "lost.txt", [BOX])

    message = fault(folder, [BOX])

    assert "lost.txt: holds annotations, but there is no image of this name" in message


def test_faults__no_folder_of_labels(folder: Path) -> None:
    file = write_yolo(folder, [BOX])
    file.unlink()
    file.parent.rmdir()

    with pytest.raises(BrokenData, match="labels/train: there is no such folder"):
        index_of(folder)


def test_faults__a_listed_image_is_missing(folder: Path) -> None:
    write_yolo(folder, [BOX])
    write_lines(folder / "train.txt", ["images/train/lost.png"])
    write_lines(folder / "data.yaml", ["names: [cat, dog]", "train: train.txt"])

    with pytest.raises(BrokenData, match=r"lost\.png: the image file is missing"):
        index_of(folder)


def test_faults__no_box_at_all(folder: Path) -> None:
    assert "no image has a box to train on" in fault(folder, [])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=4))
def test_lines__any_text_is_taken_or_refused(lines: list[str]) -> None:
    for number, annotation in annotations_in(lines, (HEIGHT, WIDTH), names=None):
        assert 1 <= number <= len(lines)
        assert isinstance(annotation, str | InstanceRecord)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_lines__boxes_lie_around_their_centre(shares: list[float]) -> None:
    line = " ".join(["0", *map(repr, shares)])

    ((_, annotation),) = annotations_in([line], (HEIGHT, WIDTH), names=None)

    assert isinstance(annotation, InstanceRecord)
    left, top, right, bottom = annotation.box_xyxy
    x, y, width, height = shares
    centre = ((left + right) / 2, (top + bottom) / 2)
    np.testing.assert_allclose(centre, [x * WIDTH, y * HEIGHT], atol=1e-9)
    np.testing.assert_allclose(
        [right - left, bottom - top], [width * WIDTH, height * HEIGHT], atol=1e-9
    )


@pytest.mark.parametrize("number", ["1.0", "1.000000", "1."])
def test_reading__takes_whole_numbers_with_a_point_as_classes(folder: Path, number: str) -> None:
    write_yolo(folder, [f"{number} 0.5 0.5 0.25 0.4"])

    assert index_of(folder).annotations(0).labels.tolist() == [1]


def test_faults__a_class_between_two_numbers(folder: Path) -> None:
    assert "line 1: must be a class number" in fault(folder, ["0.5 0.5 0.5 0.25 0.4"])


@pytest.mark.parametrize("number", ["10000", "4000000000", "9" * 4000])
def test_faults__a_number_beyond_all_classes_without_names(folder: Path, number: str) -> None:
    write_yolo(folder, [f"{number} 0.5 0.5 0.25 0.4"])
    (folder / "data.yaml").unlink()

    with pytest.raises(BrokenData, match=f"line 1: is of class {number[:20]}, which is none"):
        index_of(folder)


def test_faults__labels_are_a_pipe(folder: Path) -> None:
    labels = write_yolo(folder, [BOX])
    labels.unlink()
    os.mkfifo(labels)

    with pytest.raises(BrokenData, match=r"a\.txt: is no file"):
        index_of(folder)


def test_lists__may_begin_with_a_byte_order_mark(folder: Path) -> None:
    write_yolo(folder, [BOX])
    write_lines(folder / "data.yaml", ["names: [cat, dog]", "train: train.txt"])
    (folder / "train.txt").write_bytes(b"\xef\xbb\xbfimages/train/a.png\r\n")

    assert index_of(folder).image_path(0).name == "a.png"


def test_lists__are_refused_unless_text(folder: Path) -> None:
    write_yolo(folder, [BOX])
    write_lines(folder / "data.yaml", ["names: [cat, dog]", "train: train.txt"])
    (folder / "train.txt").write_bytes(b"\xff\xfe")

    with pytest.raises(BrokenData, match=r"train\.txt: cannot be read as text"):
        index_of(folder)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("names: [cat, null]", "the name of class 1 must be a text, not None"),
        ("names: [cat, [dog]]", "the name of class 1 must be a text, not"),
        ("names: 2001-99-99", "no YAML: month must be in 1..12"),
        (f"names: [cat]\ntrain: {'a' * 5000}", "lies neither in"),
    ],
)
def test_faults__the_description_cannot_be_used(folder: Path, line: str, said: str) -> None:
    write_yolo(folder, [BOX])
    write_lines(folder / "data.yaml", [line])

    with pytest.raises(BrokenData, match=said):
        index_of(folder)
