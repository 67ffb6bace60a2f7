"""What the doctor's checks are made of: likeness of pictures, outlines, pairs of boxes, kinds."""

import cv2
import numpy as np
import pytest

from model.rotated_iou import rotated_iou
from training.data.checking.boxes import SAME_IOU, iou, overhang, same_pairs, share_inside
from training.data.checking.file_facts import file_facts
from training.data.checking.likeness import Likeness, alike_pairs, likeness
from training.data.checking.outlines import (
    crosses_itself,
    fill_of_rectangle,
    polygon_share_inside,
    signed_area,
)
from training.data.checking.reader_problems import kind_of
from training.data.checking.report import ReportedPlace
from training.data.checking.table import place_line
from training.data.synthetic.scenes import scene


def pictures() -> list[np.ndarray]:
    return [scene(seed, 160).image for seed in range(60)]


def saved_anew(picture: np.ndarray, quality: int) -> np.ndarray:
    _, stored = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR))


def pairs(made: list[np.ndarray]) -> set[tuple[int, int]]:
    known: list[Likeness | None] = [likeness(each) for each in made]
    return set(alike_pairs(known))


def test_likeness__different_pictures_are_not_alike() -> None:
    assert pairs(pictures()) == set()


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: saved_anew(picture, 40),
        lambda picture: cv2.resize(picture, (128, 120)),
        lambda picture: picture[1:-1, 1:-1],
    ],
    ids=["saved anew", "resized", "cropped by a pixel"],
)
def test_likeness__changed_a_little_they_are_alike(change) -> None:
    made = pictures()[:30]
    spread = [index for index, each in enumerate(made) if likeness(each).bits is not None]

    found = pairs(made + [change(each) for each in made])

    assert len(spread) > 25
    assert found == {(index, index + 30) for index in spread}


def test_likeness__plain_pictures_are_never_alike() -> None:
    noise = np.random.default_rng(0).normal(128, 4, (20, 64, 64, 3))

    assert pairs(list(noise.clip(0, 255).astype(np.uint8))) == set()


def test_likeness__a_missing_picture_is_like_none() -> None:
    one = likeness(scene(1, 96).image)

    assert list(alike_pairs([None, one, None, one])) == [(1, 3)]


def test_likeness__frames_of_one_film_meet_across_splits() -> None:
    frame = likeness(scene(1, 96).image)
    num_train, num_val = 150, 100
    frames: list[Likeness | None] = [frame] * (num_train + num_val)

    found = list(alike_pairs(frames))

    leaked = {second for first, second in found if first < num_train <= second}
    assert leaked == set(range(num_train, num_train + num_val))
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("points", "crosses"),
    [
        ([0, 0, 10, 0, 10, 10, 0, 10], False),
        ([0, 0, 10, 10, 10, 0, 0, 10], True),
        ([0, 0, 10, 0, 0, 10], False),
        # A loop of a hundredth of the area.
        ([0, 0, 100, 0, 100, 100, 8, 100, 0, 92, 0, 100, 8, 92, 0, 80], False),
        # Without an area at all.
        ([0, 0, 10, 10, 20, 20, 5, 5], False),
        ([3, 3, 3, 3, 3, 3, 3, 3], False),
    ],
)
def test_crosses_itself__where_much_is_lost(points: list[float], crosses: bool) -> None:
    assert crosses_itself(np.array(points, np.float32)) is crosses


def test_crosses_itself__of_thousands_of_points() -> None:
    angles = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    eight = np.stack([np.cos(angles), np.sin(2 * angles)], axis=1)

    assert not crosses_itself((circle * 50).astype(np.float32).ravel())
    assert crosses_itself((eight * 50).astype(np.float32).ravel())


def test_outlines__shares_and_signs() -> None:
    square = np.array([-5, 2, 5, 2, 5, 8, -5, 8], np.float32)

    assert polygon_share_inside(square, 20, 20) == pytest.approx(0.5)
    assert fill_of_rectangle(square) == pytest.approx(1)
    assert fill_of_rectangle(np.array([0, 0, 9, 0, 0, 9, 0, 0], np.float32)) < 0.51
    assert signed_area(square.reshape(4, 2)) == 60
    assert signed_area(square.reshape(4, 2)[::-1]) == -60


def test_boxes__inside_and_out() -> None:
    assert share_inside((-10, 0, 10, 10), 20, 20) == 0.5
    assert overhang((-10, 0, 10, 10), 20, 20) == 10
    assert overhang((0, 0, 20, 20), 20, 20) == 0


def test_same_pairs__are_those_of_all_pairs() -> None:
    random = np.random.default_rng(3)
    centres = random.uniform(0, 60, (150, 2))
    sides = random.uniform(4, 30, (150, 2))
    angles = random.uniform(-2, 2, (150, 1))
    first = np.concatenate([centres, sides, angles], axis=1)
    # The same again, moved a little, some of them with sides exchanged and turned by 90 degrees.
    moved = first + random.normal(0, 0.1, first.shape) * (1, 1, 1, 1, 0.1)
    moved[::2] = moved[::2][:, [0, 1, 3, 2, 4]] + (0, 0, 0, 0, np.pi / 2)
    boxes = np.concatenate([first, moved])
    a, b = np.triu_indices(len(boxes), 1)
    same = rotated_iou(boxes[a], boxes[b]) > SAME_IOU

    found = {pair.second: pair.first for pair in same_pairs(boxes)}

    # Of several earlier ones the earliest.
    every = sorted(zip(a[same].tolist(), b[same].tolist(), strict=True), reverse=True)
    assert found == {second: first for first, second in every}
    assert len(found) > 100


def test_same_pairs__of_many_upright_boxes() -> None:
    low = np.random.default_rng(1).uniform(0, 500, (700, 2))
    boxes = np.concatenate([low, low + 20], axis=1)
    boxes[650] = boxes[3] + 0.2

    found = same_pairs(boxes)

    assert (3, 650) in found
    assert all(iou(tuple(boxes[a]), tuple(boxes[b])) > SAME_IOU for a, b in found)
    assert same_pairs(boxes[:1]) == []
    assert same_pairs(np.zeros((0, 5))) == []


@pytest.mark.parametrize("num_sides", [4, 5])
def test_same_pairs__of_thousands_of_copies_are_one_for_each(num_sides: int) -> None:
    box = [10, 10, 30, 50, 0.3][:num_sides]
    boxes = np.tile(np.array(box, np.float64), (20_000, 1))
    boxes[7] += 400

    pairs = same_pairs(boxes)

    assert {pair.first for pair in pairs} == {0}
    assert [pair.second for pair in pairs] == [*range(1, 7), *range(8, 20_000)]


def test_file_facts__damaged_heads_end_nowhere() -> None:
    whole = cv2.imencode(".jpg", scene(1, 64).image)[1].tobytes()
    png = cv2.imencode(".png", scene(1, 64).image)[1].tobytes()

    for stored in (whole, png):
        assert file_facts(stored).has_end
        # Every cut is told, and none goes astray.
        assert not any(file_facts(stored[:cut]).has_end for cut in range(2 * 8, len(stored) - 8, 7))
    assert file_facts(b"").channels == 0


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("the class 'a' is named twice", "broken-categories"),
        ("the name of class 1 is empty", "broken-categories"),
        ("category 3: the id stands twice", "broken-categories"),
        ("'train' names 'classroom/images', which lies neither in a nor beside it", "broken-file"),
    ],
)
def test_kind_of__whole_files(said: str, kind: str) -> None:
    assert kind_of(said, of_whole_file=True) == kind


@pytest.mark.parametrize(
    ("root", "path", "shown"),
    [
        ("set", "set/images/set/1.jpg", "images/set/1.jpg"),
        ("set/", "equals set/1.jpg", "equals 1.jpg"),
        ("set", "equals /other/offset/1.jpg", "equals /other/offset/1.jpg"),
        (".", "a./b/1.jpg", "a./b/1.jpg"),
        ("/", "/a/1.jpg", "/a/1.jpg"),
    ],
)
def test_place_line__begins_below_the_folder(root: str, path: str, shown: str) -> None:
    place = ReportedPlace(file="label", record="", image=None, what=path)

    assert place_line(place, root) == f"label: {shown}"


def test_kind_of__unknown_words_are_broken_annotations() -> None:
    assert kind_of("something that no reader says yet", of_whole_file=False) == "broken-annotation"
    assert kind_of("something that no reader says yet", of_whole_file=True) == "broken-file"
