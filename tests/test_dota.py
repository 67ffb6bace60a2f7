"""Reading DOTA's text files: what a sound file gives, and how each fault is told."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Task
from tests.data_sets import index_of, write_dota, write_image, write_lines
from training.data.formats.checks import BrokenData
from training.data.formats.dota import annotations_in, class_order
from training.data.formats.label_files import NO_LABEL_FILE
from training.data.formats.records import InstanceRecord

SHIP = "10 5 20 5 20 9 10 9 ship 0"
TILTED = "10.0 4.0 16.0 10.0 12.0 14.0 6.0 8.0 harbor 1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


def fault(folder: Path, lines: list[str], task: Task = "rotated") -> str:
    write_dota(folder, lines)
    with pytest.raises(BrokenData) as caught:
        index_of(folder, task)
    return str(caught.value)


def test_reading__turns_corners_into_a_rotated_box(folder: Path) -> None:
    write_dota(folder, ["10.0 4.0 16.0 10.0 12.0 14.0 6.0 8.0 harbor 0"])

    (box,) = index_of(folder, "rotated").annotations(0).boxes

    corners = cv2.boxPoints(((box[0], box[1]), (box[2], box[3]), float(np.degrees(box[4]))))
    found = sorted(map(tuple, corners.round(3).tolist()))
    assert found == [(6, 8), (10, 4), (12, 14), (16, 10)]


def test_reading__has_angles_in_radians(folder: Path) -> None:
    write_dota(folder, ["10.0 4.0 16.0 10.0 12.0 14.0 6.0 8.0 harbor 0"])

    (box,) = index_of(folder, "rotated").annotations(0).boxes

    assert abs(box[4]) % (np.pi / 2) == pytest.approx(np.pi / 4, abs=1e-6)


def test_reading__gives_upright_boxes_around_the_corners(folder: Path) -> None:
    write_dota(folder, ["10.0 4.0 16.0 10.0 12.0 14.0 6.0 8.0 harbor 0"])

    boxes = index_of(folder, "detect").annotations(0).boxes

    np.testing.assert_array_equal(boxes, np.float32([[6, 4, 16, 14]]))


def test_reading__passes_over_headers_and_empty_lines(folder: Path) -> None:
    write_dota(folder, ["imagesource:GoogleEarth", "gsd:0.146343", "", SHIP])

    assert index_of(folder, "rotated").meta.num_instances == 1


def test_reading__leaves_difficult_ones_out_of_training(folder: Path) -> None:
    write_dota(folder, [SHIP, TILTED])

    index = index_of(folder, "rotated")

    assert len(index.annotations(0)) == 1
    assert index.evaluation_annotations(0).is_difficult.tolist() == [False, True]


def test_reading__takes_a_line_without_difficulty_as_easy(folder: Path) -> None:
    write_dota(folder, ["10 5 20 5 20 9 10 9 ship"])

    assert len(index_of(folder, "rotated").annotations(0)) == 1


def test_reading__takes_the_size_from_the_image(folder: Path) -> None:
    write_dota(folder, [SHIP])
    write_image(folder / "train" / "images" / "P1.png", width=70, height=50)

    assert index_of(folder, "rotated").image_size(0) == (50, 70)


def test_reading__an_image_without_a_label_file_has_no_boxes(folder: Path) -> None:
    write_dota(folder, [SHIP])
    write_image(folder / "train" / "images" / "P2.png")

    index = index_of(folder, "rotated", keep_images_without_boxes=True)

    assert len(index.annotations(1)) == 0
    assert index.meta.remarks == {NO_LABEL_FILE: 1}


def test_reading__sorts_images_by_name(folder: Path) -> None:
    write_dota(folder, [SHIP])
    write_image(folder / "train" / "images" / "P0.png")
    write_lines(folder / "train" / "labelTxt" / "P0.txt", [SHIP])

    index = index_of(folder, "rotated")

    assert [index.image_path(position).name for position in (0, 1)] == ["P0.png", "P1.png"]


def test_class_order__is_the_published_one() -> None:
    names = ["helicopter", "airport", "ship", "plane"]

    ordered = [category.name for category in class_order(names)]

    assert ordered == ["plane", "ship", "helicopter", "airport"]


def test_class_order__of_other_classes_is_by_name() -> None:
    assert [category.name for category in class_order(["tram", "ship", "bus"])] == [
        "bus",
        "ship",
        "tram",
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1 2 3 4 5 6 7 ship", "needs 8 coordinates and a class, but has 8 words"),
        ("1 2 3 4 5 6 7 x ship 0", "the coordinates must be numbers: 1 2 3 4 5 6 7 x"),
        ("1 2 3 4 5 6 7 8 ship 3", "the difficulty must be 0, 1 or 2, not '3'"),
        ("nan 2 3 4 5 6 7 8 ship 0", "is not finite"),
        ("1 2 3 4 5 6 7 inf ship 0", "is not finite"),
        ("1 2 3 4 5 6 7 1e300 ship 0", "is not finite"),
    ],
)
def test_faults__name_file_and_line(folder: Path, line: str, what: str) -> None:
    message = fault(folder, [SHIP, "", line])

    assert "P1.txt: line 3: " in message
    assert what in message


def test_faults__annotations_of_no_image(folder: Path) -> None:
    write_lines(folder / "train" / "labelTxt" / "P7.txt", [SHIP])

    message = fault(folder, [SHIP])

    assert "P7.txt: holds annotations, but there is no image of this name" in message


def test_faults__two_images_of_one_name(folder: Path) -> None:
    write_image(folder / "train" / "images" / "P1.jpg")

    message = fault(folder, [SHIP])

    assert "P1.png: has the same label file as P1.jpg" in message


def test_faults__image_is_damaged(folder: Path) -> None:
    write_dota(folder, [SHIP])
    (folder / "train" / "images" / "P1.png").write_bytes(b"nothing")

    with pytest.raises(BrokenData, match=r"P1\.png: the file is no image that can be read"):
        index_of(folder, "rotated")


def test_faults__labels_are_no_text(folder: Path) -> None:
    write_dota(folder, [SHIP]).write_bytes(b"\xff\xfe\xfa")

    with pytest.raises(BrokenData, match=r"P1\.txt: cannot be read as text"):
        index_of(folder, "rotated")


def test_faults__no_image(folder: Path) -> None:
    (folder / "train" / "images").mkdir(parents=True)
    (folder / "train" / "labelTxt").mkdir()

    with pytest.raises(BrokenData, match="there is no image in this folder"):
        index_of(folder, "rotated")


def test_faults__no_annotation(folder: Path) -> None:
    assert "no image has a box to train on" in fault(folder, ["imagesource:GoogleEarth"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=4))
def test_lines__any_text_is_taken_or_refused(lines: list[str]) -> None:
    for number, annotation in annotations_in(lines, (30, 40)):
        assert 1 <= number <= len(lines)
        assert isinstance(annotation, str | InstanceRecord)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=8, max_size=8), st.sampled_from(["0", "1"])
)
def test_lines__round_trip(coordinates: list[float], difficulty: str) -> None:
    line = " ".join([*map(repr, coordinates), "large-vehicle", difficulty])

    ((_, annotation),) = annotations_in([line], (30, 40))

    assert isinstance(annotation, InstanceRecord)
    assert annotation.polygons[0].tolist() == coordinates
    assert annotation.is_difficult == (difficulty == "1")
