"""Which data set lies in a folder."""

import shutil
from pathlib import Path

import pytest

from model.config import Task
from tests.data_sets import (
    coco_content,
    write_coco,
    write_dota,
    write_image,
    write_lines,
    write_yolo,
)
from training.data.formats.checks import BrokenData
from training.data.formats.layouts import LABELS_OF_DOTA, find_data


def test_find_data__coco_with_a_folder_of_annotations(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco_content())

    train = find_data(tmp_path, "detect").train

    assert (train.format, train.annotations) == ("coco", (file,))
    assert train.images[0] == tmp_path / "train"


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("instances_train.json", "train"),
        ("train.json", "train"),
        ("train.json", "images/train"),
        ("train.json", "images"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/train.json", "train"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_find_data__coco_by_other_names(tmp_path: Path, annotations: str, images: str) -> None:
    write_lines(tmp_path / annotations, ["{}"])
    (tmp_path / images).mkdir(parents=True, exist_ok=True)

    train = find_data(tmp_path, "instance").train

    assert train.annotations == (tmp_path / annotations,)
    assert train.images[0] == tmp_path / images


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("annotations/instances_val.json", "val"), ("valid/_annotations.coco.json", "valid")],
)
def test_find_data__coco_split_for_evaluation(
    tmp_path: Path, annotations: str, images: str
) -> None:
    write_coco(tmp_path, coco_content())
    write_lines(tmp_path / annotations, ["{}"])
    (tmp_path / images).mkdir(exist_ok=True)

    val = find_data(tmp_path, "detect").val

    assert val is not None
    assert (val.split, val.annotations, val.images[0]) == (
        "val",
        (tmp_path / annotations,),
        tmp_path / images,
    )


def test_find_data__two_files_of_one_split(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco_content())
    shutil.copy(file, file.with_name("instances_train2014.json"))

    with pytest.raises(ValueError, match=r"instances_train\.json, instances_train2014\.json"):
        find_data(tmp_path, "detect")


@pytest.mark.parametrize("labels", LABELS_OF_DOTA)
def test_find_data__dota(tmp_path: Path, labels: str) -> None:
    write_image(tmp_path / "train" / "images" / "P1.png")
    (tmp_path / "train" / labels).mkdir()

    train = find_data(tmp_path, "rotated").train

    assert (train.format, train.annotations) == ("dota", (tmp_path / "train" / labels,))


def test_find_data__dota_as_its_archives_unpack(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "images" / "P1.png")
    inner = tmp_path / "train" / "labelTxt-v1.0" / "labelTxt"
    inner.mkdir(parents=True)

    assert find_data(tmp_path, "rotated").train.annotations == (inner,)


def test_find_data__dota_for_an_instance_model(tmp_path: Path) -> None:
    write_dota(tmp_path, [])

    with pytest.raises(ValueError, match="has no outlines"):
        find_data(tmp_path, "instance")


def test_find_data__no_split_for_evaluation(tmp_path: Path) -> None:
    write_dota(tmp_path, [])

    assert find_data(tmp_path, "rotated").val is None


def test_find_data__yolo_by_its_yaml(tmp_path: Path) -> None:
    write_yolo(tmp_path, [])

    train = find_data(tmp_path, "detect").train

    assert (train.format, train.images) == ("yolo", (tmp_path / "images" / "train",))
    assert train.names == ("cat", "dog")


def test_find_data__yolo_by_the_path_of_its_yaml(tmp_path: Path) -> None:
    write_yolo(tmp_path, [])

    assert find_data(tmp_path / "data.yaml", "detect").train.names == ("cat", "dog")


@pytest.mark.parametrize("images", ["images/train", "train/images"])
def test_find_data__yolo_without_yaml(tmp_path: Path, images: str) -> None:
    write_image(tmp_path / images / "a.png")
    (tmp_path / images.replace("images", "labels")).mkdir(parents=True)
    write_lines(tmp_path / "classes.txt", ["cat", "dog"])

    train = find_data(tmp_path, "detect").train

    assert (train.format, train.images, train.names) == (
        "yolo",
        (tmp_path / images,),
        ("cat", "dog"),
    )


@pytest.mark.parametrize(
    "place", ["../train/images", "train/images", "./train/images", "[train/images]"]
)
def test_find_data__yolo_finds_images_as_exports_name_them(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "set"
    write_image(folder / "train" / "images" / "a.png")
    write_lines(folder / "data.yaml", [f"train: {place}", "names: {0: cat, 1: dog}"])

    train = find_data(folder, "detect").train

    assert (train.images, train.names) == ((folder / "train" / "images",), ("cat", "dog"))


def test_find_data__yolo_with_names_alone_in_its_yaml(tmp_path: Path) -> None:
    write_yolo(tmp_path, [])
    write_lines(tmp_path / "data.yaml", ["names: [ant, bee]"])

    train = find_data(tmp_path, "detect").train

    assert (train.images, train.names) == ((tmp_path / "images" / "train",), ("ant", "bee"))


def test_find_data__yolo_with_a_path_of_another_machine(tmp_path: Path) -> None:
    write_yolo(tmp_path, [])
    text = (tmp_path / "data.yaml").read_text("utf-8")
    (tmp_path / "data.yaml").write_text(f"path: /elsewhere/set\n{text}", "utf-8")

    assert find_data(tmp_path, "detect").train.images == (tmp_path / "images" / "train",)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["names: [a"], "no YAML"),
        (["- a"], "must be a mapping"),
        (["train: images"], "'names' must list the classes"),
        (["names: []"], "'names' must list the classes"),
        (["names: {0: a, 2: b}"], "without a gap"),
        (["names: [a, b]", "nc: 3"], "'nc' is 3, but 'names' lists 2"),
        (["names: [a]", "train: lost/images"], "'train' names 'lost/images'"),
        (["names: [a, a]"], "'a' is named twice"),
    ],
)
def test_find_data__yolo_with_a_broken_yaml(tmp_path: Path, lines: list[str], what: str) -> None:
    write_lines(tmp_path / "data.yaml", lines)

    with pytest.raises(BrokenData, match=rf"data\.yaml: .*{what}"):
        find_data(tmp_path, "detect")


def test_find_data__nothing_that_is_known(tmp_path: Path) -> None:
    write_image(tmp_path / "pictures" / "a.png")

    with pytest.raises(ValueError, match=r"understood are COCO: .* DOTA: .* YOLO: "):
        find_data(tmp_path, "detect")


def test_find_data__no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        find_data(tmp_path / "lost", "detect")


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_find_data__coco_mini(shared_folder: Path, task: Task) -> None:
    root = shared_folder / "data" / "coco-mini"

    sources = find_data(root, task)

    assert sources.val is not None
    assert (sources.train.images[0], sources.val.images[0]) == (root / "train", root / "val")
