"""The index: what it keeps, how it is shared, when it is built anew."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.config import Task
from tests.data_sets import (
    HEIGHT,
    WIDTH,
    coco_content,
    index_of,
    write_coco,
    write_dota,
    write_image,
    write_lines,
    write_yolo,
)
from training.data.annotations import AnnotatedImages
from training.data.formats.checks import BrokenData
from training.data.formats.instance_checks import NO_AREA, OUTSIDE, REACHES_OUT, TOO_SMALL
from training.data.formats.layouts import find_data
from training.data.indexing.detection_index import DetectionIndex, build_index
from training.data.indexing.recording import SHORT_SIDED, UNUSED_CLASS, WITHOUT_BOXES
from training.data.synthetic.data_set import ShapesLayout, ShapesPlan, split_scenes, write_shapes
from training.data.synthetic.outlines import SHAPE_NAMES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


def with_box(box: list[float], **values: Any) -> dict[str, list[dict[str, Any]]]:
    """A sound set whose first annotation is of this box."""
    content = coco_content()
    content["annotations"][0] |= {"bbox": box, **values}
    return content


def test_index__is_what_training_takes(folder: Path) -> None:
    write_coco(folder, coco_content())

    images: AnnotatedImages = index_of(folder)

    assert (images.image_path(0), images.image_size(0)) == (
        folder / "train" / "a.png",
        (HEIGHT, WIDTH),
    )


def test_index__of_boxes_has_no_outlines(folder: Path) -> None:
    write_coco(folder, coco_content())

    assert index_of(folder).annotations(0).outlines is None


def test_index__gives_labels_of_int64_and_boxes_of_float32(folder: Path) -> None:
    write_coco(folder, coco_content())

    annotations = index_of(folder).annotations(0)

    assert (annotations.labels.dtype, annotations.boxes.dtype) == (np.int64, np.float32)


def test_index__an_image_without_boxes_has_empty_arrays(folder: Path) -> None:
    content = coco_content()
    content["annotations"] = content["annotations"][:1]
    write_coco(folder, content)

    annotations = index_of(folder, "instance", keep_images_without_boxes=True).annotations(1)

    assert (annotations.boxes.shape, annotations.labels.shape) == ((0, 4), (0,))
    assert annotations.outlines == ()


def test_index__an_image_of_a_crowd_alone_is_left_out(folder: Path) -> None:
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    write_coco(folder, content)

    index = index_of(folder)

    assert [index.image_id(position) for position in range(len(index))] == [4]
    assert index.meta.remarks == {WITHOUT_BOXES: 1, UNUSED_CLASS: 1}


def test_index__leaves_out_images_with_a_short_side(folder: Path) -> None:
    content = coco_content()
    content["images"][0] |= {"width": 31}
    write_coco(folder, content)
    write_image(folder / "train" / "a.png", width=31)
    write_image(folder / "train" / "b.png", height=32)
    content["images"][1] |= {"height": 32}
    write_coco_content_only(folder, content)

    index = index_of(folder, min_image_side=32)

    assert [index.image_id(position) for position in range(len(index))] == [4]
    assert index.meta.remarks == {SHORT_SIDED: 1, UNUSED_CLASS: 1}


def write_coco_content_only(folder: Path, content: object) -> None:
    """The JSON alone, in place of the one that is there."""
    images = {path: path.read_bytes() for path in (folder / "train").iterdir()}
    write_coco(folder, content)
    for path, data in images.items():
        path.write_bytes(data)


def test_index__clips_boxes_for_training_alone(folder: Path) -> None:
    write_coco(folder, with_box([-5, 20, 20, 20]))

    index = index_of(folder)

    assert index.annotations(0).boxes.tolist() == [[0, 20, 15, 30]]
    assert index.evaluation_annotations(0).boxes[0].tolist() == [-5, 20, 15, 40]
    assert index.meta.remarks == {REACHES_OUT: 1}


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (with_box([5, 5, 0.5, 8]), TOO_SMALL),
        (with_box([5, 5, 8, 0]), TOO_SMALL),
        (with_box([WIDTH, 5, 8, 8]), OUTSIDE),
        (with_box([5, -9, 8, 8]), OUTSIDE),
        (with_box([5, 5, 8, 8], area=0), NO_AREA),
        (with_box([5, 5, 8, 8], area=-3), NO_AREA),
    ],
)
def test_index__keeps_what_cannot_be_trained_on_for_evaluation(
    folder: Path, content: object, remark: str
) -> None:
    write_coco(folder, content)

    index = index_of(folder, keep_images_without_boxes=True)

    assert len(index.annotations(0)) == 0
    assert len(index.evaluation_annotations(0)) == 2
    assert index.meta.remarks == {remark: 1}


def test_index__does_not_train_on_empty_masks(folder: Path) -> None:
    rle = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    write_coco(folder, with_box([5, 5, 8, 8], segmentation=rle))

    index = index_of(folder, "instance", keep_images_without_boxes=True)

    assert index.meta.remarks == {NO_AREA: 1}


def test_classes__are_matched_by_name(folder: Path) -> None:
    write_coco(folder, coco_content())

    index = index_of(folder, classes=("dog", "bird", "cat"))

    assert index.annotations(0).labels.tolist() == [2]
    assert (index.classes, index.category_ids) == (("dog", "bird", "cat"), (7, -1, 3))


def test_classes__that_are_unknown_name_the_nearest(folder: Path) -> None:
    write_coco(folder, coco_content())

    with pytest.raises(BrokenData, match=r"annotation 101: the class 'cat' .* mean 'cats'\?"):
        index_of(folder, classes=("cats", "dog"))


def test_classes__of_dota_that_are_unknown_name_file_and_line(folder: Path) -> None:
    write_dota(folder, ["10 5 20 5 20 9 10 9 ship 0", "10 5 20 5 20 9 10 9 shop 0"])

    with pytest.raises(BrokenData, match=r"P1\.txt: line 2: the class 'shop'"):
        index_of(folder, "rotated", classes=("ship",))


def test_pickled_index__is_small_and_equal(folder: Path) -> None:
    write_coco(folder, coco_content())
    index = index_of(folder, "instance")

    data = pickle.dumps(index)

    assert len(data) < 1000
    again: DetectionIndex = pickle.loads(data)
    np.testing.assert_array_equal(again.annotations(1).boxes, index.annotations(1).boxes)


def test_pickled_index__finds_its_folder_from_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(folder, coco_content())
    monkeypatch.chdir(tmp_path)
    source = find_data(Path("set"), "detect").train
    data = pickle.dumps(build_index(source, task="detect", folder=Path("made")))

    monkeypatch.chdir("/")

    index: DetectionIndex = pickle.loads(data)
    assert index.image_path(0) == folder / "train" / "a.png"


def test_arrays__are_mapped_files(folder: Path) -> None:
    write_coco(folder, coco_content())
    index = index_of(folder, "instance")

    mapped = mapped_files(Path("/proc/self/maps").read_text("utf-8"), index.folder)

    assert {"boxes.npy", "labels.npy", "points.npy", "path_text.npy"} <= mapped


def mapped_files(maps: str, folder: Path) -> set[str]:
    """Files of a folder that this process maps, and shares."""
    lines = (line.split() for line in maps.splitlines())
    paths = (Path(words[5]) for words in lines if len(words) > 5 and words[1].endswith("s"))
    return {path.name for path in paths if path.parent == folder}


def test_arrays__cannot_be_written_through_what_is_handed_out(folder: Path) -> None:
    write_coco(folder, coco_content())
    index = index_of(folder, "instance")
    before = index.annotations(0).boxes.copy()

    index.annotations(0).boxes[:] = 0
    index.evaluation_annotations(0).boxes[:] = 0

    np.testing.assert_array_equal(index.annotations(0).boxes, before)


def build_counted(folder: Path, place: Path, **settings: Any) -> tuple[DetectionIndex, int]:
    """The index, and how many images were read to build it."""
    told: list[tuple[int, int]] = []
    source = find_data(folder, "detect").train
    index = build_index(
        source,
        task="detect",
        folder=place,
        progress=lambda done, total: told.append((done, total)),
        **settings,
    )
    return index, len(told)


def test_broken_data__crosses_processes(folder: Path) -> None:
    write_coco(folder, with_box([1, 1, -1, 5]))
    with pytest.raises(BrokenData) as caught:
        index_of(folder)

    again = pickle.loads(pickle.dumps(caught.value))

    assert str(again) == str(caught.value)


def test_reading_data__needs_no_torch() -> None:
    program = (
        "import sys, training.data.formats.tiling; "
        "from training.data.indexing import detection_index, image_folders; "
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_build_index__tells_how_far_it_is(folder: Path, tmp_path: Path) -> None:
    write_coco(folder, coco_content())
    told: list[tuple[int, int]] = []

    build_index(
        find_data(folder, "detect").train,
        task="detect",
        folder=tmp_path / "made",
        progress=lambda done, total: told.append((done, total)),
    )

    assert told == [(1, 2), (2, 2)]


def test_build_index__opens_what_is_there(folder: Path, tmp_path: Path) -> None:
    write_coco(folder, coco_content())
    build_counted(folder, tmp_path / "made")

    index, num_read = build_counted(folder, tmp_path / "made")

    assert (len(index), num_read) == (2, 0)


def test_build_index__builds_anew_for_other_settings(folder: Path, tmp_path: Path) -> None:
    write_coco(folder, coco_content())
    build_counted(folder, tmp_path / "made")

    _, num_read = build_counted(folder, tmp_path / "made", classes=("dog", "cat"))

    assert num_read == 2


def test_build_index__builds_anew_when_the_annotations_changed(
    folder: Path, tmp_path: Path
) -> None:
    write_coco(folder, coco_content())
    build_counted(folder, tmp_path / "made")
    write_coco(folder, with_box([1, 1, 30, 20]))

    index, _ = build_counted(folder, tmp_path / "made")

    assert index.annotations(0).boxes.tolist() == [[1, 1, 31, 21]]


def test_build_index__notices_a_change_that_keeps_the_size(folder: Path, tmp_path: Path) -> None:
    file = write_dota(folder, ["10 5 20 5 20 9 10 9 ship 0"])
    build_counted(folder, tmp_path / "made")
    write_lines(file, ["11 5 20 5 20 9 11 9 ship 0"])
    os.utime(file, ns=(1, 1))

    index, _ = build_counted(folder, tmp_path / "made")

    assert index.annotations(0).boxes[0, 0] == 11


def test_build_index__notices_that_an_image_is_gone(folder: Path, tmp_path: Path) -> None:
    write_coco(folder, coco_content())
    build_counted(folder, tmp_path / "made")
    (folder / "train" / "b.png").unlink()

    with pytest.raises(BrokenData, match=r"b\.png: the image file is missing"):
        build_counted(folder, tmp_path / "made")


def test_build_index__notices_a_new_image_of_yolo(folder: Path, tmp_path: Path) -> None:
    write_yolo(folder, ["1 0.5 0.5 0.25 0.4"])
    build_counted(folder, tmp_path / "made", keep_images_without_boxes=True)
    write_image(folder / "images" / "train" / "b.png")

    index, _ = build_counted(folder, tmp_path / "made", keep_images_without_boxes=True)

    assert len(index) == 2


def test_build_index__replaces_what_was_left_half_written(folder: Path, tmp_path: Path) -> None:
    write_coco(folder, coco_content())
    write_lines(tmp_path / "made.part" / "boxes.npy", ["half"])
    write_lines(tmp_path / "made" / "meta.json", ["{}"])

    index, _ = build_counted(folder, tmp_path / "made")

    assert len(index) == 2
    assert not (tmp_path / "made.part").exists()


def test_build_index__leaves_nothing_for_broken_data(folder: Path, tmp_path: Path) -> None:
    write_coco(folder, with_box([1, 1, -1, 5]))

    with pytest.raises(BrokenData):
        build_counted(folder, tmp_path / "made")

    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_open__where_there_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no index of a data set"):
        DetectionIndex.open(tmp_path / "lost")


def test_open__an_index_of_another_version(folder: Path) -> None:
    write_coco(folder, coco_content())
    meta = index_of(folder).folder / "meta.json"
    meta.write_text(meta.read_text("utf-8").replace("rtmdet-index-1", "rtmdet-index-0"), "utf-8")

    with pytest.raises(ValueError, match="is no index of this version"):
        DetectionIndex.open(meta.parent)


UPRIGHT_LAYOUTS: list[tuple[ShapesLayout, Task]] = [
    ("coco", "detect"),
    ("coco", "instance"),
    ("yolo", "detect"),
    ("yolo-polygons", "detect"),
    ("yolo-polygons", "instance"),
]


@pytest.mark.parametrize(("layout", "task"), UPRIGHT_LAYOUTS)
def test_index__has_the_boxes_of_synthetic_scenes(
    folder: Path, layout: ShapesLayout, task: Task
) -> None:
    write_shapes(folder, ShapesPlan(num_train=3, num_val=1, size=160, layout=layout))

    index = index_of(folder, task)

    for position, scene in enumerate(split_scenes("train", 3, size=160, seed=0)):
        np.testing.assert_allclose(index.annotations(position).boxes, scene.boxes, atol=2)


@pytest.mark.parametrize("layout", ["dota", "yolo-oriented"])
def test_index__has_the_rotated_boxes_of_synthetic_scenes(
    folder: Path, layout: ShapesLayout
) -> None:
    write_shapes(folder, ShapesPlan(num_train=3, num_val=1, size=160, layout=layout))

    index = index_of(folder, "rotated")

    for position, scene in enumerate(split_scenes("train", 3, size=160, seed=0)):
        ours, theirs = index.annotations(position).boxes, scene.rotated_boxes
        np.testing.assert_allclose(ours[:, :2], theirs[:, :2], atol=0.01)
        np.testing.assert_allclose(np.sort(ours[:, 2:4]), np.sort(theirs[:, 2:4]), atol=0.02)


@pytest.mark.parametrize("layout", ["coco", "dota", "yolo"])
def test_index__has_the_classes_of_synthetic_scenes(folder: Path, layout: ShapesLayout) -> None:
    write_shapes(folder, ShapesPlan(num_train=3, num_val=1, size=160, layout=layout))

    index = index_of(folder)

    for position, scene in enumerate(split_scenes("train", 3, size=160, seed=0)):
        names = [index.classes[label] for label in index.annotations(position).labels]
        assert names == [SHAPE_NAMES[label] for label in scene.labels]


def test_index__passes_over_classes_that_are_listed_and_not_met(folder: Path) -> None:
    write_coco(folder, coco_content())
    content = coco_content()
    content["categories"].append({"id": 99, "name": "animals"})
    write_coco(folder, content, split="val")
    val = find_data(folder, "detect").val
    assert val is not None

    index = build_index(val, task="detect", folder=folder / "index", classes=("cat", "dog"))

    assert (index.classes, index.category_ids) == (("cat", "dog"), (3, 7))
