"""Images sorted into one folder per class."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.data_sets import write_image, write_lines
from training.data.formats.checks import BrokenData
from training.data.indexing.image_folders import FolderIndex, find_image_folders, index_image_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two ants and a bee to train on, one of each to evaluate on."""
    root = tmp_path / "set"
    for name in ("train/bee/1.jpg", "train/ant/2.jpg", "train/ant/1.png"):
        write_image(root / name)
    for name in ("val/ant/7.jpg", "val/bee/8.jpg"):
        write_image(root / name)
    return root


def test_find_image_folders__both(folder: Path) -> None:
    assert find_image_folders(folder) == (folder / "train", folder / "val")


def test_find_image_folders__none_to_evaluate_on(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "ant" / "1.png")

    assert find_image_folders(tmp_path).val is None


def test_find_image_folders__no_class(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "1.png")

    with pytest.raises(ValueError, match="one folder of images per class"):
        find_image_folders(tmp_path)


def test_index__numbers_classes_by_name(folder: Path, tmp_path: Path) -> None:
    index = index_image_folder(folder / "train", folder=tmp_path / "index")

    assert (index.classes, index.labels.tolist()) == (("ant", "bee"), [0, 0, 1])


def test_index__finds_its_images(folder: Path, tmp_path: Path) -> None:
    index = index_image_folder(folder / "train", folder=tmp_path / "index")

    images = [index.image_path(position) for position in range(len(index))]
    train = folder / "train"
    assert images == [train / "ant" / "1.png", train / "ant" / "2.jpg", train / "bee" / "1.jpg"]


def test_index__passes_over_other_files(folder: Path, tmp_path: Path) -> None:
    write_lines(folder / "train" / "ant" / "notes.txt", ["ants"])
    write_image(folder / "train" / "ant" / ".hidden.png")

    assert len(index_image_folder(folder / "train", folder=tmp_path / "index")) == 3


def test_index__pickles_as_a_path(folder: Path, tmp_path: Path) -> None:
    index = index_image_folder(folder / "train", folder=tmp_path / "index")

    data = pickle.dumps(index)

    assert len(data) < 1000
    again: FolderIndex = pickle.loads(data)
    np.testing.assert_array_equal(again.labels, index.labels)


def test_index__is_opened_when_nothing_changed(folder: Path, tmp_path: Path) -> None:
    index_image_folder(folder / "train", folder=tmp_path / "index")
    before = (tmp_path / "index").stat().st_ino

    index_image_folder(folder / "train", folder=tmp_path / "index")

    assert (tmp_path / "index").stat().st_ino == before


def test_index__is_built_anew_for_a_new_image(folder: Path, tmp_path: Path) -> None:
    index_image_folder(folder / "train", folder=tmp_path / "index")
    write_image(folder / "train" / "bee" / "2.jpg")

    assert len(index_image_folder(folder / "train", folder=tmp_path / "index")) == 4


def test_faults__a_class_without_images(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "wasp").mkdir()

    with pytest.raises(BrokenData, match="train/wasp: the folder of this class holds no image"):
        index_image_folder(folder / "train", folder=tmp_path / "index")


def test_faults__a_trained_class_is_not_evaluated(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match="val/wasp: there is no folder of this class"):
        index_image_folder(
            folder / "val", folder=tmp_path / "index", classes=("ant", "bee", "wasp")
        )


def test_faults__an_evaluated_class_is_not_trained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match="val/bee: there is no class of this name"):
        index_image_folder(folder / "val", folder=tmp_path / "index", classes=("ant",))


def test_faults__no_class_at_all(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()

    with pytest.raises(BrokenData, match="there is no folder of a class here"):
        index_image_folder(tmp_path / "train", folder=tmp_path / "index")


def test_open__where_there_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no index of a data set"):
        FolderIndex.open(tmp_path / "lost")


def test_index__passes_over_hidden_folders(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / ".ipynb_checkpoints").mkdir()

    index = index_image_folder(folder / "train", folder=tmp_path / "index")

    assert index.classes == ("ant", "bee")


def test_index__enters_no_folder_twice(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "ant" / "loop").symlink_to(".")
    (folder / "train" / "ant" / "other").symlink_to("../ant")
    (tmp_path / "more").mkdir()
    write_image(tmp_path / "more" / "3.png")
    (folder / "train" / "bee" / "more").symlink_to(tmp_path / "more")

    index = index_image_folder(folder / "train", folder=tmp_path / "index")

    names = [index.image_path(position).name for position in range(len(index))]
    assert names == ["1.png", "2.jpg", "1.jpg", "3.png"]
