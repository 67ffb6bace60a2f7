"""Data sets rewritten in other formats: what stays as it is."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.converted_sets import coco_with, converted, read, run_lengths_of
from tests.data_sets import coco_content, write_coco, write_dota, write_image
from tests.pictures import as_stored
from training.data.formats.layouts import DataFormat, find_data
from training.data.indexing.detection_index import build_index
from training.data.sampling.images import read_image
from training.data.writing.conversion import Conversion, convert
from training.data.writing.file_names import IN_FOLDERS, SAME_NAMES


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "set"


def test_convert__coco_to_polygons_and_back(source: Path) -> None:
    content = coco_content()
    content["annotations"].pop()
    write_coco(source, content)
    middle, _ = converted(source, "yolo")
    back, report = converted(middle, "coco")

    before, after = read(source), read(back)
    assert after.classes == before.classes == ("cat", "dog")
    assert report.remarks == {}
    for one, other in zip(before.images, after.images, strict=True):
        assert one.path.name == other.path.name
        for first, second in zip(one.instances, other.instances, strict=True):
            assert first.category == second.category
            np.testing.assert_allclose(first.box_xyxy, second.box_xyxy, atol=1e-3)
            np.testing.assert_allclose(first.polygons, second.polygons, atol=1e-3)


def test_convert__coco_to_boxes_and_back(source: Path) -> None:
    content = coco_with({"bbox": [2.25, 3.5, 10.0, 8.125], "segmentation": []})
    write_coco(source, content)
    middle, report = converted(source, "yolo")
    back, _ = converted(middle, "coco")

    assert report.task == "detect"
    (instance,) = read(back).images[0].instances
    np.testing.assert_allclose(instance.box_xyxy, [2.25, 3.5, 12.25, 11.625], atol=1e-3)


def test_convert__coco_to_coco_keeps_everything(source: Path) -> None:
    write_coco(source, coco_content())
    out, report = converted(source, "coco")

    assert report.remarks == {}
    written = json.loads((out / "annotations/instances_train.json").read_text())
    categories = [(each["id"], each["name"]) for each in written["categories"]]
    assert categories == [(3, "cat"), (7, "dog")]
    first, crowd = read(out).images[0].instances
    assert (first.area, crowd.is_crowd, crowd.area) == (40.0, True, 120.0)
    assert crowd.run_lengths == read(source).images[0].instances[1].run_lengths


def test_convert__dota_to_coco_and_back(source: Path) -> None:
    lines = ["10 5 20 10 18 14 8 9 ship 0", "1 1 9 1 9 6 1 6 harbor 0"]
    write_dota(source, lines)
    middle, _ = converted(source, "coco")
    back, report = converted(middle, "dota")

    assert read(middle).classes == ("ship", "harbor")
    before, after = read(source, "rotated"), read(back, "rotated")
    assert (after.classes, report.remarks) == (before.classes, {})
    for one, other in zip(before.images[0].instances, after.images[0].instances, strict=True):
        assert one.category == other.category
        np.testing.assert_allclose(one.polygons, other.polygons, atol=1e-3)


def test_convert__dota_to_oriented_boxes_and_back(source: Path) -> None:
    write_dota(source, ["10 5 20 10 18 14 8 9 ship 0"])
    middle, report = converted(source, "yolo")
    back, _ = converted(middle, "dota")

    assert report.task == "rotated"
    (instance,) = read(back, "rotated").images[0].instances
    np.testing.assert_allclose(instance.polygons[0], [10, 5, 20, 10, 18, 14, 8, 9], atol=2e-3)


def test_convert__keeps_the_splits(source: Path) -> None:
    for split in ("train", "val"):
        write_dota(source, [f"1 1 9 1 9 6 1 6 {split}-ship 0"], split=split)
    out, report = converted(source, "yolo")

    assert report.num_images == {"train": 1, "val": 1}
    assert read(out).classes == ("train-ship", "val-ship")
    (instance,) = read(out, split="val").images[0].instances
    assert instance.category == "val-ship"


def test_convert__same_names_in_different_folders(source: Path) -> None:
    content = coco_content()
    for image, name in zip(content["images"], ("left/1.png", "right/1.png"), strict=True):
        image["file_name"] = name
    write_coco(source, content)
    for seed, name in enumerate(("left/1.png", "right/1.png")):
        write_image(source / "train" / name, seed=seed)
    out, report = converted(source, "dota")

    assert report.remarks[IN_FOLDERS] == 2
    after = {image.path.name: image for image in read(out, "rotated").images}
    assert sorted(after) == ["left-1.png", "right-1.png"]
    for folder, category in (("left", "cat"), ("right", "dog")):
        image = after[f"{folder}-1.png"]
        assert [each.category for each in image.instances] == [category]
        assert image.path.read_bytes() == (source / "train" / folder / "1.png").read_bytes()


def test_convert__same_stems_get_numbers(source: Path) -> None:
    content = coco_content()
    content["images"][1]["file_name"] = "A.bmp"
    write_coco(source, content)
    write_image(source / "train" / "A.bmp")
    out, report = converted(source, "yolo")

    assert report.remarks[SAME_NAMES] == 1
    assert sorted(path.name for path in (out / "labels/train").iterdir()) == ["A-2.txt", "a.txt"]


@pytest.mark.parametrize("to", ["coco", "dota", "yolo"])
def test_convert__names_with_blanks_and_any_letters(source: Path, to: DataFormat) -> None:
    name = "Straße 東京 #1.png"
    content = coco_content()
    content["images"][0]["file_name"] = name
    content["categories"][1]["name"] = "Käfer: 'é'\u2028🐞"
    write_coco(source, content)
    write_image(source / "train" / name)
    out, _ = converted(source, to)

    images = {image.path.name: image for image in read(out, "rotated").images}
    category = images[name].instances[0].category
    assert category == ("Käfer:-'é'-🐞" if to == "dota" else "Käfer: 'é'\u2028🐞")


@pytest.mark.parametrize("layout", ["yolo", "dota"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_convert__boxes_stay_on_their_pixels_in_turned_photographs(
    source: Path, layout: DataFormat, orientation: int
) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[5:15, 8:28] = 1
    write_turned(source, mask, orientation)
    out, _ = converted(source, layout)
    back, _ = converted(out, "coco")

    for folder, task in ((out, "rotated"), (back, "detect")):
        found = find_data(folder, task).train
        place = source.parent / f"index-{folder.name}"
        index = build_index(found, task="detect", folder=place)
        pixels = read_image(index.image_path(0), index.image_size(0), upright=index.are_upright)
        left, top, right, bottom = index.annotations(0).boxes[0].round().astype(int)
        seen = pixels[..., 1] > 128
        assert seen[top:bottom, left:right].mean() > 0.95
        assert seen.sum() - seen[top:bottom, left:right].sum() < 30


def write_turned(folder: Path, mask: np.ndarray, orientation: int) -> None:
    """A bright patch as COCO counts it: in pixels as they are stored."""
    picture = np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)
    exif = Image.Exif()
    exif[274] = orientation
    stored = as_stored(picture, orientation)
    content = coco_with({})
    content["images"] = [
        {"id": 10, "file_name": "a.jpg", "height": stored.shape[0], "width": stored.shape[1]}
    ]
    rows, columns = np.nonzero(stored[..., 0])
    left, top = int(columns.min()), int(rows.min())
    width, height = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    content["annotations"][0] |= {
        "bbox": [left, top, width, height],
        "segmentation": run_lengths_of(stored[..., 0] > 0),
    }
    write_coco(folder, content)
    Image.fromarray(stored).save(folder / "train" / "a.jpg", exif=exif, quality=95)


def test_convert__copies_images_byte_for_byte(source: Path) -> None:
    write_coco(source, coco_content())
    out, _ = converted(source, "yolo")

    copy = out / "images/train/a.png"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (source / "train/a.png").read_bytes()


def test_convert__links_to_images(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(source, coco_content())
    monkeypatch.chdir(source.parent)
    convert(Path("set"), Path("out"), Conversion(to="dota", link=True))

    link = source.parent / "out/train/images/a.png"
    assert link.is_symlink()
    assert link.read_bytes() == (source / "train/a.png").read_bytes()
    assert len(read(source.parent / "out", "rotated").images) == 2
