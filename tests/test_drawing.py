"""Pictures with detections: what is drawn where, and that labels stay legible and inside."""

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from math import cos, pi, sin

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.masks import InstanceMask
from service.codecs.drawing import draw_detections, encode_picture
from service.codecs.label_layout import (
    MAX_COVERED,
    Label,
    Rectangle,
    label_beside_box,
    place_labels,
)
from service.codecs.label_text import Typeface, printable
from service.codecs.palette import class_colour, contrasting, luminance
from service.detection import Detection, RotatedBox
from service.errors import NotAcceptable
from tests.pictures import noise

TYPEFACE = Typeface()


def grey_picture(width: int = 200, height: int = 150, value: int = 128) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def box_of(
    left: float, top: float, right: float, bottom: float, class_id: int = 0, score: float = 0.9
) -> Detection:
    return Detection("person", class_id, score, (left, top, right, bottom))


def masked(
    crop: NDArray[np.bool_], x: int, y: int, width: int = 200, height: int = 150
) -> Detection:
    box = (float(x), float(y), float(x + crop.shape[1]), float(y + crop.shape[0]))
    return Detection("person", 0, 0.9, box, InstanceMask(x, y, crop, width, height))


def has_colour(picture: NDArray[np.uint8], class_id: int = 0) -> NDArray[np.bool_]:
    return (picture == class_colour(class_id)).all(axis=2)


def is_near_colour(picture: NDArray[np.uint8], class_id: int = 0) -> NDArray[np.bool_]:
    """Smoothed lines of one pixel hardly reach their colour."""
    return np.abs(picture.astype(int) - class_colour(class_id)).max(axis=2) < 60


# The picture


def test_draw__nothing_to_draw() -> None:
    picture = noise((40, 60, 3))
    drawn = draw_detections(picture, [])
    np.testing.assert_array_equal(drawn, picture)
    assert drawn is not picture


def test_draw__leaves_the_original_alone() -> None:
    picture = grey_picture()
    drawn = draw_detections(picture, [box_of(20, 40, 120, 120)])
    assert (picture == 128).all()
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.uint8
    assert (drawn != picture).any()


def test_draw__same_in_every_thread() -> None:
    picture = noise((150, 200, 3))
    detections = [box_of(8 * i, 5 * i, 8 * i + 60, 5 * i + 50, i, 0.3 + i / 40) for i in range(16)]
    expected = draw_detections(picture, detections)
    with ThreadPoolExecutor(4) as pool:
        for drawn in pool.map(lambda _: draw_detections(picture, detections), range(24)):
            np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (3, 200), (200, 3), (1200, 900)])
def test_draw__pictures_of_any_size(size: tuple[int, int]) -> None:
    width, height = size
    mask = InstanceMask(0, 0, np.ones((height, width), np.bool_), width, height)
    turned = RotatedBox(width / 2, height / 2, width, height / 3, 0.4)
    box = (0.0, 0.0, float(width), float(height))
    detections = [
        Detection("person", 0, 0.9, box),
        Detection("person", 1, 0.8, box, mask),
        Detection("ship", 2, 0.7, box, None, turned),
    ]
    assert draw_detections(grey_picture(width, height), detections).shape == (height, width, 3)


# Boxes


def test_draw__box_lies_on_its_edges() -> None:
    # The strongest detection of the picture takes the label's room above the box.
    drawn = draw_detections(grey_picture(), [box_of(40, 60, 120, 130)])
    coloured = has_colour(drawn)
    # The line is one pixel wide in a picture of this size: the two around an edge are candidates.
    assert coloured[65:125, 39:41].any(axis=1).all()
    assert coloured[65:125, 119:121].any(axis=1).all()
    assert coloured[129:131, 45:115].any(axis=0).all()
    assert (drawn[70:120, 50:110] == 128).all()
    assert (drawn[:, 130:] == 128).all()
    assert (drawn[140:] == 128).all()


def test_draw__box_moves_with_its_coordinates() -> None:
    left_edges = []
    for left in (40.0, 40.4, 41.0, 42.0):
        coloured = has_colour(draw_detections(grey_picture(), [box_of(left, 60, 120, 130)]))
        left_edges.append(int(coloured[100].argmax()))
    assert left_edges == [left_edges[0], left_edges[0], left_edges[0] + 1, left_edges[0] + 2]


def test_draw__box_partly_outside_is_closed_at_the_edge() -> None:
    coloured = has_colour(draw_detections(grey_picture(), [box_of(-50, -20, 250, 190)]))
    assert coloured[30:, 0].all()
    assert coloured[30:, -1].all()
    assert coloured[-1].all()


@pytest.mark.parametrize(
    "box", [(300, 300, 400, 400), (-90, -90, -10, -10), (50, 50, 50, 50), (80, 90, 60, 70)]
)
def test_draw__box_without_a_pixel_in_the_picture(box: tuple[float, float, float, float]) -> None:
    assert draw_detections(grey_picture(), [box_of(*box)]).shape == (150, 200, 3)


def test_draw__box_shows_on_its_own_colour() -> None:
    colour = class_colour(0)
    picture = np.broadcast_to(np.array(colour, np.uint8), (150, 200, 3)).copy()
    row = draw_detections(picture, [box_of(40, 60, 120, 130)])[100, 30:50].astype(int)
    assert has_colour(row[None]).any()
    shadow = row[~has_colour(row[None])[0]]
    assert len(shadow) >= 2
    assert (shadow.sum(axis=1) < 0.7 * sum(colour)).all()


def test_draw__lines_grow_with_the_picture() -> None:
    def line_of(width: int, height: int) -> int:
        box = box_of(0.3 * width, 0.3 * height, 0.8 * width, 0.8 * height)
        row = draw_detections(grey_picture(width, height), [box])[height // 2, : width // 2]
        return int(has_colour(row[None]).sum())

    lines = [line_of(64, 48), line_of(640, 480), line_of(1920, 1080), line_of(4000, 3000)]
    assert lines == sorted(set(lines))
    assert lines[0] == 1


def test_draw__strongest_lies_on_top() -> None:
    weak = box_of(40, 60, 120, 130, class_id=1, score=0.4)
    strong = box_of(40, 60, 120, 130, class_id=2, score=0.8)
    for detections in ([weak, strong], [strong, weak]):
        drawn = draw_detections(grey_picture(), detections)
        assert has_colour(drawn, class_id=2)[100].any()
        assert not has_colour(drawn, class_id=1)[100].any()


# Rotated boxes


def test_draw__rotated_box_instead_of_the_upright_one() -> None:
    angle, width, height = 0.5, 90.0, 40.0
    box = Detection(
        "ship", 0, 0.9, (20, 20, 180, 130), None, RotatedBox(100, 75, width, height, angle)
    )
    near = is_near_colour(draw_detections(grey_picture(), [box]))

    def is_drawn(along: float, across: float) -> bool:
        # The angle turns from x towards y, which is clockwise as y points down.
        x = 100 + along * cos(angle) - across * sin(angle)
        y = 75 + along * sin(angle) + across * cos(angle)
        return bool(near[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].any())

    for along, across in ((1, 0), (-1, 0), (0, 1), (0.5, 1), (1, 0.5), (-0.5, 1)):
        assert is_drawn(along * width / 2, across * height / 2)
    assert not is_drawn(0, 0)
    assert not near[110:, :60].any()
    mirrored_end = int(100 + width / 2 * cos(-angle)), int(75 + width / 2 * sin(-angle))
    assert not near[mirrored_end[1], mirrored_end[0]]


def test_draw__rotated_box_partly_outside() -> None:
    turned = RotatedBox(0, 0, 150, 60, pi / 4)
    drawn = draw_detections(grey_picture(), [Detection("ship", 0, 0.9, (0, 0, 9, 9), None, turned)])
    assert (drawn != 128).any()


# Masks


def test_draw__mask_tints_its_pixels_alone() -> None:
    crop = np.zeros((60, 80), np.bool_)
    crop[:, :40] = True
    picture = noise((150, 200, 3))
    drawn = draw_detections(picture, [masked(crop, x=50, y=70)])
    inside, outside = np.s_[75:125, 55:85], np.s_[75:125, 95:125]
    expected = np.round(0.65 * picture[inside] + 0.35 * np.array(class_colour(0)))
    assert np.abs(drawn[inside] - expected).max() <= 1
    np.testing.assert_array_equal(drawn[outside], picture[outside])


def test_draw__mask_has_an_outline() -> None:
    crop = np.zeros((60, 80), np.bool_)
    cv2.circle(crop.view(np.uint8), (40, 30), 20, 1, -1)
    drawn = draw_detections(grey_picture(), [masked(crop, x=50, y=70)])
    # Above the middle of the circle, inside the box.
    assert is_near_colour(drawn)[70 + 30 - 21 : 70 + 30 - 18, 90].any()


def test_draw__mask_with_a_hole() -> None:
    crop = np.ones((60, 80), np.bool_)
    crop[20:40, 20:60] = False
    drawn = draw_detections(grey_picture(), [masked(crop, x=50, y=70)])
    assert (drawn[95:105, 80:100] == 128).all()
    assert is_near_colour(drawn)[100, 66:72].any()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 30), (30, 1), (2, 4)])
def test_draw__masks_of_few_pixels(shape: tuple[int, int]) -> None:
    drawn = draw_detections(grey_picture(), [masked(np.ones(shape, np.bool_), x=120, y=100)])
    assert drawn.shape == (150, 200, 3)
    if 0 not in shape:
        assert (drawn[100 : 100 + shape[0], 120 : 120 + shape[1]] != 128).any(axis=2).all()


def test_draw__mask_that_is_empty_within_its_box() -> None:
    crop = np.zeros((60, 80), np.bool_)
    drawn = draw_detections(grey_picture(), [masked(crop, x=50, y=70)])
    assert (drawn[75:125, 55:125] == 128).all()


# Labels


def test_draw__label_stands_above_its_box() -> None:
    drawn = draw_detections(grey_picture(), [box_of(40, 60, 190, 130)])
    plate = has_colour(drawn)[:58]
    rows, columns = np.nonzero(plate)
    assert rows.max() == 57
    assert rows.min() > 40
    assert columns.min() in (39, 40)
    # Dark letters on the plate.
    assert (drawn[rows.min() : 58, 40:120].max(axis=2) < 60).any()


@pytest.mark.parametrize("box", [(20, 0, 190, 130), (-9, -9, 300, 300), (150, 0, 200, 20)])
def test_draw__label_of_a_box_at_the_top_stays_inside(
    box: tuple[float, float, float, float],
) -> None:
    plain = draw_detections(grey_picture(), [Detection("", 0, 0.9, box)])
    named = draw_detections(grey_picture(), [Detection("person", 0, 0.9, box)])
    assert (plain != named).any()


def test_draw__label_depends_on_name_and_score() -> None:
    pictures = [
        draw_detections(grey_picture(), [Detection(name, 0, score, (40, 60, 120, 130))])
        for name, score in (("person", 0.91), ("person", 0.92), ("parson", 0.91))
    ]
    for first, second in combinations(pictures, 2):
        assert (first != second).any()


def test_draw__long_name_is_shortened() -> None:
    drawn = draw_detections(
        grey_picture(640, 480), [Detection("x" * 500, 0, 0.9, (9, 99, 600, 400))]
    )
    row_of_plate = has_colour(drawn)[85]
    assert 100 < np.flatnonzero(row_of_plate).max() < 0.4 * 640 + 15


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30), st.integers(0, 10**6))
def test_draw__any_name(name: str, class_id: int) -> None:
    box = (20.0, 40.0, 90.0, 100.0)
    drawn = draw_detections(grey_picture(120, 120), [Detection(name, class_id, 0.5, box)])
    assert drawn.shape == (120, 120, 3)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "a\nb\tc", "\u202eabc", "😀", "e\u0301", "كلب"])
def test_draw__odd_names(name: str) -> None:
    box = (20.0, 40.0, 90.0, 100.0)
    plain = draw_detections(grey_picture(), [Detection("", 0, 0.5, box)])
    assert (draw_detections(grey_picture(), [Detection(name, 0, 0.5, box)]) != plain).any()


def test_printable__is_one_line() -> None:
    assert printable(" a\nb\0\tc\u202ed ") == "a b c d"
    assert printable("\ud800") == "?"
    assert printable("z\u0307o\u0301ł") == "żół"


def coverage_of(text: str) -> NDArray[np.uint8]:
    coverage = np.zeros((40, 400), np.uint8)
    TYPEFACE.draw(coverage, text, x=5, baseline=28, size=20)
    return coverage


def test_typeface__draws_within_its_width() -> None:
    for text in ("person 0.91", "Äpfel", "W", "traffic light"):
        columns = np.flatnonzero(coverage_of(text).any(axis=0))
        assert columns.min() >= 4
        assert columns.max() <= 5 + TYPEFACE.width(text, 20)
        assert columns.max() >= 5 + 0.8 * TYPEFACE.width(text, 20)


@pytest.mark.parametrize("text", ["é", "ł", "ß", "猫", "Ж", "\U0010ffff"])
def test_typeface__shows_something_for_every_letter(text: str) -> None:
    assert coverage_of(text).max() > 100


def test_typeface__tells_latin_letters_apart() -> None:
    letters = [coverage_of(text) for text in "aáàâäãåāăąæbcçćčdďđeéęěğhłñńňoóőøœßşšțúűůżźž?"]
    for first, second in combinations(letters, 2):
        assert (first != second).any()


# Where labels go

sizes = st.tuples(st.integers(1, 60), st.integers(1, 20))


@st.composite
def crowded_pictures(draw: st.DrawFn) -> tuple[int, int, list[Label]]:
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 200))
    labels = []
    for _ in range(draw(st.integers(0, 12))):
        left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
        labels.append(label_beside_box(*draw(sizes), Rectangle(left, top, right, bottom)))
    return width, height, labels


@settings(max_examples=150, deadline=None)
@given(crowded_pictures())
def test_place_labels__inside_apart_and_within_budget(
    crowded: tuple[int, int, list[Label]],
) -> None:
    width, height, labels = crowded
    places = place_labels(labels, width, height)
    assert len(places) == len(labels)
    placed = [place for place in places if place is not None]
    for label, place in zip(labels, places, strict=True):
        if place is not None:
            assert (place.width, place.height) == (label.width, label.height)
            assert place == place.cut_to(width, height)
    for one, other in combinations(placed, 2):
        apart = one.right <= other.left or other.right <= one.left
        assert apart or one.bottom <= other.top or other.bottom <= one.top
    covered = sum(place.width * place.height for place in placed[1:])
    assert covered <= MAX_COVERED * width * height


def test_place_labels__above_the_box_where_there_is_room() -> None:
    label = label_beside_box(40, 10, Rectangle(50, 60, 150, 120))
    assert place_labels([label], 200, 150) == [Rectangle(50, 50, 90, 60)]


def test_place_labels__inside_at_the_upper_edge_and_shifted_at_the_right_one() -> None:
    at_the_top = label_beside_box(40, 10, Rectangle(20, 5, 150, 120))
    assert place_labels([at_the_top], 200, 150) == [Rectangle(20, 5, 60, 15)]
    at_the_right = label_beside_box(40, 10, Rectangle(190, 60, 200, 120))
    assert place_labels([at_the_right], 200, 150) == [Rectangle(160, 50, 200, 60)]


def test_place_labels__give_way_to_each_other() -> None:
    same = label_beside_box(40, 10, Rectangle(50, 60, 150, 120))
    first, second = place_labels([same, same], 200, 150)
    assert first == Rectangle(50, 50, 90, 60)
    assert second is not None
    assert second != first


def test_place_labels__do_not_hide_a_small_object() -> None:
    large = label_beside_box(40, 10, Rectangle(50, 60, 150, 120))
    small = label_beside_box(40, 10, Rectangle(60, 50, 68, 58))
    place = place_labels([large, small], 200, 150)[0]
    assert place is not None
    assert place.top >= 58 or place.left >= 68


def test_place_labels__left_out_where_it_would_hide_objects() -> None:
    # Small objects in a dense block: each label beside the inner one would cover several.
    block = [Rectangle(x, y, x + 8, y + 8) for y in range(40, 90, 10) for x in range(60, 150, 10)]
    inner = Rectangle(100, 60, 108, 68)
    labels = [label_beside_box(40, 10, box) for box in [Rectangle(0, 130, 50, 149), inner, *block]]
    places = place_labels(labels, 200, 150)
    assert places[0] is not None
    assert places[1] is None


def test_place_labels__the_strongest_keep_theirs_in_a_crowd() -> None:
    labels = [
        label_beside_box(40, 10, Rectangle(x, y, x + 8, y + 8))
        for y in range(20, 180, 20)
        for x in range(0, 280, 20)
    ]
    places = place_labels(labels, 300, 200)
    assert places[0] is not None
    assert places[1] is not None
    assert sum(place is not None for place in places) == MAX_COVERED * 300 * 200 // 400


# Colours


def test_class_colour__is_stable() -> None:
    colours = [class_colour(class_id) for class_id in range(3)]
    assert colours == [(81, 175, 9), (254, 153, 165), (86, 172, 254)]


@pytest.mark.parametrize(("num_classes", "least_distance"), [(10, 15.0), (20, 12.0), (80, 3.0)])
def test_class_colour__classes_differ(num_classes: int, least_distance: float) -> None:
    colours = np.array([[class_colour(class_id) for class_id in range(num_classes)]], np.float32)
    lab = cv2.cvtColor(colours / 255, cv2.COLOR_BGR2LAB)[0]
    distances = [float(np.linalg.norm(one - other)) for one, other in combinations(lab, 2)]
    assert min(distances) >= least_distance


def test_contrasting__letters_are_legible_on_every_colour() -> None:
    for class_id in range(300):
        plate = class_colour(class_id)
        lighter, darker = sorted((luminance(plate), luminance(contrasting(plate))), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_contrasting__is_light_on_dark_and_dark_on_light() -> None:
    assert luminance(contrasting((0, 0, 0))) > 0.9
    assert luminance(contrasting((255, 255, 255))) < 0.1


# Files


def test_encode_picture__png_is_exact() -> None:
    picture = noise((30, 50, 3))
    data = encode_picture(picture, "png")
    assert data.startswith(b"\x89PNG")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, picture)


def test_encode_picture__jpeg_keeps_colours_at_full_resolution() -> None:
    picture = grey_picture(64, 48)
    picture[:, 31] = (0, 0, 255)
    data = encode_picture(picture, "jpeg")
    assert data.startswith(b"\xff\xd8")
    decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert np.abs(decoded.astype(int) - picture).max() < 40


def test_encode_picture__quality_costs_bytes() -> None:
    picture = noise((60, 80, 3))
    assert len(encode_picture(picture, "jpeg", 50)) < len(encode_picture(picture, "jpeg", 95))


def test_encode_picture__too_long_for_a_jpeg() -> None:
    strip = np.zeros((1, 70_000, 3), np.uint8)
    with pytest.raises(NotAcceptable, match="ask for image/png"):
        encode_picture(strip, "jpeg")
    assert encode_picture(strip, "png").startswith(b"\x89PNG")
