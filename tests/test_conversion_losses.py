"""Data sets rewritten in formats that hold less: it is said what changes."""

from pathlib import Path

import numpy as np
import pytest

from tests.converted_sets import coco_with, converted, read, run_lengths_of
from tests.data_sets import HEIGHT, WIDTH, coco_content, write_coco, write_dota, write_yolo
from training.data.formats.layouts import DataFormat
from training.data.run_lengths import decoded, of_polygons
from training.data.writing.conversion import OTHER_SPLITS, Conversion, convert
from training.data.writing.dota import BLANKS, ORDER, UNUSED
from training.data.writing.forms import (
    CROWDS,
    ENCLOSED,
    HOLES,
    NO_OUTLINE,
    NO_PIXELS,
    OUTLINES,
    PARTS,
    UPRIGHT,
)
from training.data.writing.yolo import CLIPPED, DIFFICULT, OUTSIDE

#: A mask of two parts, one of them with a hole.
RING = np.zeros((HEIGHT, WIDTH), np.uint8)
RING[2:12, 3:15] = 1
RING[5:8, 6:10] = 0
RING[20:24, 30:38] = 1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.mark.parametrize("place", ["test", "images/test", "annotations/image_info_test-dev.json"])
def test_convert__tells_of_a_split_to_test_on(source: Path, place: str) -> None:
    write_coco(source, coco_content())
    assert OTHER_SPLITS not in converted(source, "coco")[1].remarks
    (source / place).mkdir(parents=True)

    report = convert(source, source.parent / "out", Conversion(to="coco"))

    assert report.remarks == {OTHER_SPLITS: 1}
    assert report.num_images == {"train": 2}


def test_convert__crowds_are_left_out(source: Path) -> None:
    write_coco(source, coco_content())
    out, report = converted(source, "yolo")

    assert report.remarks == {CROWDS: 1}
    assert [len(image.instances) for image in read(out).images] == [1, 1]


def test_convert__parts_are_joined_and_holes_filled(source: Path) -> None:
    write_coco(source, coco_with({"segmentation": run_lengths_of(RING)}))
    out, report = converted(source, "yolo")

    assert report.remarks == {PARTS: 1, HOLES: 1}
    (instance,) = read(out).images[0].instances
    filled = RING.copy()
    filled[5:8, 6:10] = 1
    points = [polygon.reshape(-1, 2) for polygon in instance.polygons]
    mask = decoded(of_polygons(points, HEIGHT, WIDTH), HEIGHT, WIDTH)
    np.testing.assert_array_equal(mask, filled)


def test_convert__masks_without_pixels_are_left_out(source: Path) -> None:
    empty = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}
    sound = {"segmentation": [[1, 1, 6, 1, 6, 6]]}
    write_coco(source, coco_with(empty, sound))

    assert converted(source, "yolo")[1].remarks == {NO_PIXELS: 1}
    assert converted(source, "dota")[1].remarks[NO_PIXELS] == 1


def test_convert__outlines_become_boxes(source: Path) -> None:
    write_coco(source, coco_content())
    _, report = converted(source, "yolo", "detect")

    assert report.remarks == {CROWDS: 1, OUTLINES: 2}


def test_convert__coco_may_keep_boxes_alone(source: Path) -> None:
    write_coco(source, coco_content())
    out, report = converted(source, "coco", "detect")

    assert report.remarks == {OUTLINES: 3}
    assert not any(each.polygons for image in read(out).images for each in image.instances)


def test_convert__boxes_become_polygons_of_four_corners(source: Path) -> None:
    write_yolo(source, ["0 0.5 0.5 0.25 0.4"])
    out = source.parent / "out"
    report = convert(source, out, Conversion(to="yolo", task="instance"))

    assert report.remarks == {NO_OUTLINE: 1}
    (instance,) = read(out).images[0].instances
    np.testing.assert_allclose(instance.polygons[0], [15, 9, 25, 9, 25, 21, 15, 21], atol=1e-3)


def test_convert__upright_boxes_become_rotated_ones(source: Path) -> None:
    write_yolo(source, ["0 0.5 0.5 0.25 0.4"])
    out, report = converted(source, "dota")

    assert report.remarks == {UPRIGHT: 1, UNUSED: 1}
    (instance,) = read(out, "rotated").images[0].instances
    np.testing.assert_allclose(instance.polygons[0], [15, 9, 25, 9, 25, 21, 15, 21], atol=1e-3)


def test_convert__outlines_become_the_smallest_rotated_boxes(source: Path) -> None:
    diamond = [20, 5, 30, 15, 20, 25, 10, 15, 12, 13]
    write_coco(source, coco_with({"bbox": [10, 5, 20, 20], "segmentation": [diamond]}))
    out, report = converted(source, "dota")

    assert report.remarks == {ENCLOSED: 1, UNUSED: 1}
    (instance,) = read(out, "rotated").images[0].instances
    corners = {tuple(point) for point in instance.polygons[0].reshape(4, 2).round().tolist()}
    assert corners == {(20, 5), (30, 15), (20, 25), (10, 15)}


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_convert__difficult_instances_lose_their_mark(source: Path, to: DataFormat) -> None:
    write_dota(source, ["1 1 9 1 9 6 1 6 ship 1", "1 1 9 1 9 6 1 6 ship 0"])

    assert converted(source, to)[1].remarks == {DIFFICULT: 1}


def test_convert__dota_keeps_what_is_difficult(source: Path) -> None:
    write_dota(source, ["1 1 9 1 9 6 1 6 ship 1"])

    (instance,) = read(converted(source, "dota")[0], "rotated").images[0].instances
    assert instance.is_difficult


def test_convert__boxes_are_clipped_to_their_image(source: Path) -> None:
    reaching = {"bbox": [-4, 2, 14, 10], "segmentation": []}
    outside = {"bbox": [-9, 2, 5, 10], "segmentation": []}
    write_coco(source, coco_with(reaching, outside))
    out, report = converted(source, "yolo")

    assert report.remarks == {CLIPPED: 1, OUTSIDE: 1}
    (instance,) = read(out).images[0].instances
    np.testing.assert_allclose(instance.box_xyxy, [0, 2, 10, 12], atol=1e-3)


def test_convert__dota_has_no_blanks_in_names(source: Path) -> None:
    content = coco_content()
    content["categories"][0]["name"] = "hot dog"
    write_coco(source, content)
    out, report = converted(source, "dota")

    assert report.remarks[BLANKS] == 1
    assert read(out, "rotated").classes == ("cat", "hot-dog")


def test_convert__dota_cannot_tell_two_names_apart(source: Path) -> None:
    content = coco_content()
    content["categories"][0]["name"], content["categories"][1]["name"] = "hot dog", "hot-dog"
    write_coco(source, content)

    with pytest.raises(ValueError, match="two classes would both be called 'hot-dog'"):
        converted(source, "dota")
    assert [path.name for path in source.parent.iterdir()] == ["set"]


def test_convert__dota_loses_the_order_of_classes(source: Path) -> None:
    write_yolo(source, ["0 0.5 0.5 0.25 0.4", "1 0.5 0.5 0.25 0.4"], names=("dog", "cat"))

    assert converted(source, "dota")[1].remarks == {UPRIGHT: 2, ORDER: 1}
