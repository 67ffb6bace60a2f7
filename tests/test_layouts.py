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


@pytest.mark.parametrize("key", ["path", "train", "nc", "names"])
def test_find_data__yolo_with_a_few_lines_that_stand_for_billions(tmp_path: Path, key: str) -> None:
    doubled = [f"a{number}: &a{number} [*a{number - 1}, *a{number - 1}]" for number in range(1, 40)]
    lines = ["names: [cat]"] if key != "names" else []
    write_lines(tmp_path / "data.yaml", ["a0: &a0 [x, y]", *doubled, *lines, f"{key}: [*a39]"])

    with pytest.raises(BrokenData, match=r"not a list|is a list, but"):
        find_data(tmp_path, "detect")


def test_find_data__yolo_with_names_that_are_no_text(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")

    with pytest.raises(BrokenData, match=r"classes\.txt: cannot be read as text"):
        find_data(tmp_path, "detect")


def test_find_data__nothing_that_is_known(tmp_path: Path) -> None:
    write_image(tmp_path / "pictures" / "a.png")

    with pytest.raises(ValueError, match=r"understood are COCO: .* DOTA: .* YOLO: "):
        find_data(tmp_path, "detect")


def refusal(path: Path) -> str:
    """The one line that refuses `path`, which must name the layouts too."""
    with pytest.raises(
        ValueError, match=r"no data set is recognised here.*; understood are "
    ) as at:
        find_data(path, "detect")
    text = str(at.value)
    assert "\n" not in text
    return text.removeprefix(f"{path}: ").partition("; understood are ")[0]


def test_find_data__says_nothing_more_of_what_resembles_no_data_set(tmp_path: Path) -> None:
    write_lines(tmp_path / "notes" / "a.txt", ["milk"])

    assert refusal(tmp_path) == "no data set is recognised here"


def test_find_data__images_of_a_split_without_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "images" / "a.png")

    said = refusal(tmp_path)

    assert "train/images is there, but no folder of labels" in said
    assert all(name in said for name in ("labels", *LABELS_OF_DOTA))


def test_find_data__split_of_images_without_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "train" / "a.png")

    assert "images/train is there, but neither labels/train" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("place", "said"),
    [("", "there are images, but no annotations"), ("train", "train holds images, but there are")],
)
def test_find_data__images_alone(tmp_path: Path, place: str, said: str) -> None:
    write_image(tmp_path / place / "a.JPG")

    assert said in refusal(tmp_path)


def test_find_data__images_sorted_by_class(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "cat" / "a.png")

    assert "recipes of classifiers (cspnext-...)" in refusal(tmp_path)


def test_find_data__path_of_the_json(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco_content())

    assert refusal(file).endswith(f"it is a file, give the data set's folder, {tmp_path}")


def test_find_data__path_of_some_file(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "set" / "all" / "some.json", ["{}"])

    assert refusal(file).endswith("it is a file, give the data set's folder")


@pytest.mark.parametrize("layout", ["coco", "dota", "yolo"])
def test_find_data__one_folder_deeper(tmp_path: Path, layout: str) -> None:
    inner = tmp_path / "inner"
    write_image(tmp_path / "cover.png")
    if layout == "coco":
        write_coco(inner, coco_content())
    elif layout == "dota":
        write_dota(inner, [])
    else:
        write_yolo(inner, [])

    assert refusal(tmp_path).endswith(f"there is one in {inner}, give that folder")


def test_find_data__no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        find_data(tmp_path / "lost", "detect")


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_find_data__coco_mini(shared_folder: Path, task: Task) -> None:
    root = shared_folder / "data" / "coco-mini"

    sources = find_data(root, task)

    assert sources.val is not None
    assert (sources.train.images[0], sources.val.images[0]) == (root / "train", root / "val")
