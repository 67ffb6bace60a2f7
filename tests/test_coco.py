"""Reading COCO's JSON: what a sound file gives, and how each fault is told."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.data_sets import HEIGHT, WIDTH, coco_content, index_of, write_coco, write_image
from training.data.formats.checks import MAX_LISTED, BrokenData
from training.data.formats.coco import BACKSLASHES, LISTED_TWICE
from training.data.formats.layouts import find_data
from training.data.indexing.detection_index import DetectionIndex, build_index
from training.data.indexing.recording import UNUSED_CLASS
from training.data.run_lengths import compressed, decoded, expanded

Content = dict[str, list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


def spoilt(folder: Path, spoil: Callable[[Content], object]) -> str:
    """What is said of a set for instance models that is sound but for `spoil`."""
    content = coco_content()
    spoil(content)
    write_coco(folder, content)
    with pytest.raises(BrokenData) as caught:
        index_of(folder, "instance")
    message = str(caught.value)
    assert "instances_train.json" in message
    return message


def set_value(list_name: str, position: int, key: str, value: object) -> Callable[[Content], None]:
    def spoil(content: Content) -> None:
        content[list_name][position][key] = value

    return spoil


def test_reading__keeps_the_order_of_images_and_their_ids(folder: Path) -> None:
    write_coco(folder, coco_content())

    index = index_of(folder)

    assert [index.image_id(position) for position in range(len(index))] == [10, 4]


def test_reading__numbers_categories_by_id_from_zero(folder: Path) -> None:
    content = coco_content()
    content["categories"][0]["id"] = content["annotations"][1]["category_id"] = 9
    write_coco(folder, content)

    index = index_of(folder)

    assert (index.classes, index.category_ids) == (("cat", "dog"), (3, 9))


def test_reading__gives_boxes_as_corners(folder: Path) -> None:
    write_coco(folder, coco_content())

    boxes = index_of(folder).annotations(1).boxes

    np.testing.assert_array_equal(boxes, np.float32([[20, 10, 32, 16]]))


def test_reading__leaves_crowds_out_of_training(folder: Path) -> None:
    write_coco(folder, coco_content())

    assert len(index_of(folder).annotations(0)) == 1


def test_reading__keeps_crowds_for_evaluation(folder: Path) -> None:
    write_coco(folder, coco_content())

    truth = index_of(folder, "instance").evaluation_annotations(0)

    assert (truth.ids.tolist(), truth.is_crowd.tolist()) == ([101, 103], [False, True])


def test_reading__keeps_areas_of_the_file(folder: Path) -> None:
    write_coco(folder, coco_content())

    assert index_of(folder).evaluation_annotations(0).areas.tolist() == [40.0, 120.0]


def test_reading__gives_polygons_as_points(folder: Path) -> None:
    write_coco(folder, coco_content())

    outlines = index_of(folder, "instance").annotations(0).outlines

    assert outlines is not None
    (polygon,) = outlines[0].polygons
    np.testing.assert_array_equal(polygon, np.float32([[2.5, 3], [12.5, 3], [2.5, 11]]))


@pytest.mark.parametrize("form", ["plain", "compressed"])
def test_reading__crops_run_lengths_of_an_instance(folder: Path, form: str) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:9, 7:17] = 1
    mask[5, 7] = 0
    counts = coco_mask.encode(mask)["counts"]
    value = expanded(counts).tolist() if form == "plain" else counts.decode()
    content = coco_content()
    content["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": value}
    write_coco(folder, content)

    outlines = index_of(folder, "instance").annotations(0).outlines

    assert outlines is not None
    assert outlines[0].origin == (7, 5)
    np.testing.assert_array_equal(outlines[0].bitmap, mask[5:9, 7:17])


def test_reading__rotates_boxes_around_polygons(folder: Path) -> None:
    write_coco(folder, coco_content())

    (box,) = index_of(folder, "rotated").annotations(1).boxes

    corners = cv2.boxPoints(((box[0], box[1]), (box[2], box[3]), np.degrees(box[4])))
    assert sorted(map(tuple, corners.round(3).tolist())) == [(20, 10), (20, 16), (32, 10), (32, 16)]


def test_reading__rotates_boxes_around_the_pixels_of_run_lengths(folder: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:9, 7:17] = 1
    content = coco_content()
    counts = coco_mask.encode(mask)["counts"].decode()
    content["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    write_coco(folder, content)

    (box,) = index_of(folder, "rotated").annotations(0).boxes

    assert box[:2].tolist() == [12.0, 7.0]
    assert sorted(box[2:4].tolist()) == [4.0, 10.0]


def test_reading__looks_at_no_segmentation_for_boxes(folder: Path) -> None:
    content = coco_content()
    content["annotations"][0]["segmentation"] = [[1.0, 2.0]]
    write_coco(folder, content)

    assert index_of(folder, "detect").meta.num_trained == 2


def test_reading__works_out_areas_that_the_file_lacks(folder: Path) -> None:
    content = coco_content()
    del content["annotations"][0]["area"]
    write_coco(folder, content)

    assert index_of(folder, "instance").evaluation_annotations(0).areas[0] == 40.0


def test_reading__takes_an_image_in_a_folder_that_its_name_holds(folder: Path) -> None:
    content = coco_content()
    for image in content["images"]:
        image["file_name"] = f"train/{image['file_name']}"
    write_coco(folder, content)

    assert index_of(folder).image_path(0) == folder / "train" / "a.png"


def test_reading__drops_an_unused_category_with_the_name_of_another(folder: Path) -> None:
    content = coco_content()
    content["categories"].append({"id": 0, "name": "cat"})
    write_coco(folder, content)

    assert index_of(folder).category_ids == (3, 7)


def test_faults__image_file_is_missing(folder: Path) -> None:
    message = spoilt(folder, set_value("images", 1, "file_name", "lost.png"))

    assert "image 4" in message
    assert "lost.png: the image file is missing" in message


def test_faults__image_file_is_damaged(folder: Path) -> None:
    write_coco(folder, coco_content())
    (folder / "train" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")

    with pytest.raises(BrokenData, match=r"image 4: .*b\.png: the image file is damaged"):
        index_of(folder)


def test_faults__image_size_differs_from_the_file(folder: Path) -> None:
    message = spoilt(folder, set_value("images", 0, "width", 50))

    assert "image 10: states 50x30 pixels, but" in message
    assert "is 40x30" in message


def test_faults__annotation_of_no_image(folder: Path) -> None:
    message = spoilt(folder, set_value("annotations", 1, "image_id", 99))

    assert "annotation 102: is for image 99" in message


def test_faults__image_id_stands_twice(folder: Path) -> None:
    assert "image 10: the id stands twice" in spoilt(folder, set_value("images", 1, "id", 10))


def test_faults__annotation_id_stands_twice(folder: Path) -> None:
    message = spoilt(folder, set_value("annotations", 1, "id", 101))

    assert "annotation 101: the id stands twice" in message


def test_faults__category_id_stands_twice(folder: Path) -> None:
    message = spoilt(folder, set_value("categories", 1, "id", 7))

    assert "category 7: the id stands twice" in message


def test_faults__two_used_categories_have_one_name(folder: Path) -> None:
    message = spoilt(folder, set_value("categories", 1, "name", "dog"))

    assert "category 7: is called 'dog' like category 3" in message


def test_faults__category_is_unknown(folder: Path) -> None:
    message = spoilt(folder, set_value("annotations", 0, "category_id", 5))

    assert "annotation 101: is of category 5, which is none; the categories are 3, 7" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_faults__box_is_not_finite(folder: Path, value: float) -> None:
    message = spoilt(folder, set_value("annotations", 0, "bbox", [1, 2, value, 4]))

    assert "annotation 101: the box (" in message
    assert "is not finite" in message


def test_faults__box_has_a_negative_size(folder: Path) -> None:
    message = spoilt(folder, set_value("annotations", 0, "bbox", [10, 2, -3, 4]))

    assert "annotation 101: the box has a negative size: -3x4" in message


@pytest.mark.parametrize("value", [None, [1, 2, 3], [1, 2, 3, "4"], "box", [[1], 2, 3, 4]])
def test_faults__box_is_no_four_numbers(folder: Path, value: object) -> None:
    message = spoilt(folder, set_value("annotations", 0, "bbox", value))

    assert "annotation 101: 'bbox' must be four numbers" in message


def test_faults__area_is_not_finite(folder: Path) -> None:
    message = spoilt(folder, set_value("annotations", 0, "area", float("nan")))

    assert "annotation 101: the area is not finite" in message


def test_faults__polygon_of_two_points(folder: Path) -> None:
    message = spoilt(folder, set_value("annotations", 1, "segmentation", [[1, 2, 3, 4]]))

    assert "annotation 102: polygon 1 has 2 points" in message


def test_faults__second_polygon_has_an_odd_number_of_coordinates(folder: Path) -> None:
    polygons = [[1, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5, 6, 7]]

    message = spoilt(folder, set_value("annotations", 1, "segmentation", polygons))

    assert "annotation 102: polygon 2 has an odd number of coordinates, 7" in message


def test_faults__polygon_is_not_finite(folder: Path) -> None:
    polygons = [[1, 2, 3, 4, 5, float("nan")]]

    message = spoilt(folder, set_value("annotations", 1, "segmentation", polygons))

    assert "annotation 102: polygon 1 has a coordinate that is not finite" in message


@pytest.mark.parametrize("value", ["polygon", [1, 2, 3, 4, 5, 6], [[1, 2, "3", 4, 5, 6]]])
def test_faults__segmentation_is_of_no_known_form(folder: Path, value: object) -> None:
    message = spoilt(folder, set_value("annotations", 1, "segmentation", value))

    assert "annotation 102" in message


def test_faults__instance_without_an_outline(folder: Path) -> None:
    message = spoilt(folder, set_value("annotations", 1, "segmentation", []))

    assert "annotation 102: has a box alone" in message


def test_faults__a_crowd_needs_no_outline(folder: Path) -> None:
    content = coco_content()
    content["annotations"][2]["segmentation"] = []
    write_coco(folder, content)

    assert index_of(folder, "instance").meta.num_instances == 3


def test_faults__run_lengths_of_another_size(folder: Path) -> None:
    rle = {"size": [WIDTH, HEIGHT], "counts": [1200]}

    message = spoilt(folder, set_value("annotations", 2, "segmentation", rle))

    assert (
        "annotation 103: its run lengths have the size [40, 30], the image is [30, 40]" in message
    )


@pytest.mark.parametrize(
    "counts", [[0, 120], [2000, -800], ["1", 1199], 1200, "0n5", "\x01", "", "oooooooooooooo0"]
)
def test_faults__run_lengths_are_damaged(folder: Path, counts: object) -> None:
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}

    message = spoilt(folder, set_value("annotations", 2, "segmentation", rle))

    assert "annotation 103: has run lengths" in message


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_faults__a_list_is_empty(folder: Path, name: str) -> None:
    def empty(content: Content) -> None:
        content[name] = []

    assert f"'{name}' is empty" in spoilt(folder, empty)


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_faults__a_list_is_missing(folder: Path, name: str) -> None:
    assert f"'{name}' must be a list" in spoilt(folder, lambda content: content.pop(name))


def test_faults__json_is_cut_off(folder: Path) -> None:
    file = write_coco(folder, coco_content())
    file.write_bytes(file.read_bytes()[:-20])

    with pytest.raises(BrokenData, match=r"instances_train\.json: line 1, column \d+: no JSON"):
        index_of(folder)


def test_faults__a_number_is_too_long(folder: Path) -> None:
    file = write_coco(folder, coco_content())
    file.write_text(file.read_text("utf-8").replace("101", "1" * 5000), "utf-8")

    with pytest.raises(BrokenData, match=r"instances_train\.json: no JSON: "):
        index_of(folder)


def test_faults__a_coordinate_is_beyond_all_numbers(folder: Path) -> None:
    polygons = [[1, 2, 3, 4, 5, 10**400]]

    message = spoilt(folder, set_value("annotations", 1, "segmentation", polygons))

    assert "annotation 102: polygon 1 has a coordinate beyond any image" in message


@pytest.mark.parametrize("key", ["id", "file_name", "width"])
def test_faults__an_image_lacks_a_value(folder: Path, key: str) -> None:
    message = spoilt(folder, lambda content: content["images"][1].pop(key))

    assert ("image at position 1" if key == "id" else "image 4") in message


def test_faults__an_annotation_lacks_its_id(folder: Path) -> None:
    message = spoilt(folder, lambda content: content["annotations"][1].pop("id"))

    assert "annotation at position 1" in message


def test_faults__are_all_counted_and_ten_are_listed(folder: Path) -> None:
    content = coco_content()
    for number in range(14):
        extra = content["annotations"][0] | {"id": 200 + number, "bbox": [1, 1, -1, -1]}
        content["annotations"].append(extra)
    write_coco(folder, content)

    with pytest.raises(BrokenData) as caught:
        index_of(folder)

    assert (len(caught.value.problems), caught.value.num_problems) == (MAX_LISTED, 14)
    assert "and 4 more" in caught.value.report()


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_mini__equals_pycocotools(shared_folder: Path, tmp_path: Path, split: str) -> None:
    index = mini_index(shared_folder, tmp_path, split)
    theirs = COCO(str(shared_folder / "data" / "coco-mini" / f"instances_{split}.json"))

    for position in range(len(index)):
        truth = index.evaluation_annotations(position)
        annotations = theirs.imgToAnns[index.image_id(position)]
        assert truth.ids.tolist() == [annotation["id"] for annotation in annotations]
        xywh = np.array([annotation["bbox"] for annotation in annotations]).reshape(-1, 4)
        np.testing.assert_allclose(truth.boxes[:, :2], xywh[:, :2], atol=1e-4)
        np.testing.assert_allclose(truth.boxes[:, 2:] - truth.boxes[:, :2], xywh[:, 2:], atol=1e-4)
        assert truth.areas.tolist() == [annotation["area"] for annotation in annotations]


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_mini__has_the_masks_of_pycocotools_to_the_pixel(
    shared_folder: Path, tmp_path: Path, split: str
) -> None:
    index = mini_index(shared_folder, tmp_path, split)
    theirs = COCO(str(shared_folder / "data" / "coco-mini" / f"instances_{split}.json"))

    for position in range(len(index)):
        truth = index.evaluation_annotations(position)
        size = list(index.image_size(position))
        assert truth.masks is not None
        annotations = theirs.imgToAnns[index.image_id(position)]
        for annotation, counts in zip(annotations, truth.masks, strict=True):
            assert theirs.annToRLE(annotation) == {"size": size, "counts": counts}


def test_coco_mini__has_the_published_counts(shared_folder: Path, tmp_path: Path) -> None:
    index = mini_index(shared_folder, tmp_path, "train")

    figures = (len(index), index.meta.num_instances, index.meta.num_trained, len(index.classes))
    assert figures == (33, 286, 282, 80)


def mini_index(shared_folder: Path, tmp_path: Path, split: str) -> DetectionIndex:
    sources = find_data(shared_folder / "data" / "coco-mini", "instance")
    source = sources.train if split == "train" else sources.val
    assert source is not None
    return build_index(
        source, task="instance", folder=tmp_path / split, keep_images_without_boxes=True
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_run_lengths__equal_pycocotools_both_ways(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    seed, share = data.draw(st.tuples(st.integers(0, 2**32 - 1), st.floats(0, 1)))
    drawn = np.random.default_rng(seed).random((height, width)) < share
    counts = coco_mask.encode(np.asfortranarray(drawn, np.uint8))["counts"]

    runs = expanded(counts)

    values = np.arange(len(runs)) % 2
    np.testing.assert_array_equal(np.repeat(values, runs), drawn.ravel("F"))
    assert compressed(runs.tolist(), height, width) == counts
    np.testing.assert_array_equal(decoded(counts, height, width), drawn)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30))
def test_run_lengths__arbitrary_bytes_are_refused_or_decode(counts: bytes) -> None:
    try:
        sound = compressed(counts, 5, 7)
    except ValueError:
        return
    assert decoded(sound, 5, 7).shape == (5, 7)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 200) | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    ),
    st.sampled_from(["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"]),
)
def test_reading__any_value_is_taken_or_refused_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, value: object, key: str
) -> None:
    folder = tmp_path_factory.mktemp("any") / "set"
    content = coco_content()
    content["annotations"][0][key] = value
    write_coco(folder, content)

    try:
        index = index_of(folder, "instance")
    except BrokenData as error:
        reason = str(error)
    else:
        reason = ""
        for position in range(len(index)):
            assert np.isfinite(index.annotations(position).boxes).all()
    assert not reason or "instances_train.json: " in reason


def test_image_without_annotations__is_left_out_unless_kept(folder: Path) -> None:
    content = coco_content()
    content["images"].append({"id": 5, "file_name": "c.png", "width": WIDTH, "height": HEIGHT})
    write_coco(folder, content)
    write_image(folder / "train" / "c.png")

    assert len(index_of(folder)) == 2
    assert len(index_of(folder, keep_images_without_boxes=True)) == 3


def test_faults__no_json_object(folder: Path) -> None:
    file = write_coco(folder, coco_content())
    file.write_text(json.dumps([1, 2]), "utf-8")

    with pytest.raises(BrokenData, match="must be an object"):
        index_of(folder)


@pytest.mark.parametrize("value", ["0", "no", 2, [], {}])
def test_faults__iscrowd_is_neither_0_nor_1(folder: Path, value: object) -> None:
    said = spoilt(folder, set_value("annotations", 0, "iscrowd", value))

    assert f"annotation 101: 'iscrowd' must be 0 or 1, not {json.dumps(value)}" in said


@pytest.mark.parametrize("counts", [[10**400], [2**62, 2**62, 2**62, 2**62, WIDTH * HEIGHT]])
def test_faults__run_lengths_beyond_any_number(folder: Path, counts: list[int]) -> None:
    outline = {"size": [HEIGHT, WIDTH], "counts": counts}

    said = spoilt(folder, set_value("annotations", 0, "segmentation", outline))

    assert "annotation 101: has run lengths of which one is longer than the image" in said


@pytest.mark.parametrize("name", ["a.png\0", "a" * 5000, "/dev/zero", "/dev/null"])
def test_faults__names_that_are_of_no_image_file(folder: Path, name: str) -> None:
    said = spoilt(folder, set_value("images", 0, "file_name", name))

    assert "image 10: " in said
    assert "the image file" in said


def test_faults__an_image_is_a_pipe(folder: Path) -> None:
    write_coco(folder, coco_content())
    (folder / "train" / "a.png").unlink()
    os.mkfifo(folder / "train" / "a.png")

    with pytest.raises(BrokenData, match=r"image 10: .*a\.png: the image file is no file"):
        index_of(folder)


def test_faults__half_a_character_as_a_name(folder: Path) -> None:
    said = spoilt(folder, set_value("categories", 0, "name", "\ud800"))

    assert "category 7: needs a whole 'id' and a 'name'" in said


def test_faults__no_box_is_left_says_why(folder: Path) -> None:
    write_coco(folder, coco_content())

    with pytest.raises(BrokenData, match=r"no image has a box to train on: 2 x images with a side"):
        index_of(folder, min_image_side=HEIGHT + 1)


def test_reading__takes_backslashes_for_slashes(folder: Path) -> None:
    content = coco_content()
    content["images"][0]["file_name"] = "..\\train\\a.png"
    write_coco(folder, content)

    index = index_of(folder)

    assert index.image_path(0).is_file()
    assert index.meta.remarks == {BACKSLASHES: 1}


def test_reading__keeps_backslashes_that_belong_to_the_name(folder: Path) -> None:
    content = coco_content()
    content["images"][0]["file_name"] = "a\\b.png"
    write_coco(folder, content)
    (folder / "train" / "a.png").rename(folder / "train" / "a\\b.png")

    assert index_of(folder).image_path(0).name == "a\\b.png"


def test_reading__counts_files_that_are_listed_twice(folder: Path) -> None:
    content = coco_content()
    content["images"][1]["file_name"] = "a.png"
    write_coco(folder, content)

    index = index_of(folder)

    assert (len(index), index.meta.remarks) == (2, {LISTED_TWICE: 1})


def test_reading__counts_classes_without_annotations(folder: Path) -> None:
    content = coco_content()
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    write_coco(folder, content)

    assert index_of(folder).meta.remarks == {UNUSED_CLASS: 1}
