"""Data sets rewritten in other formats: nothing changes, or it is said what does."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from model.config import Task
from tests.data_sets import (
    HEIGHT,
    WIDTH,
    coco_content,
    write_coco,
    write_dota,
    write_image,
    write_lines,
    write_yolo,
)
from tests.pictures import as_stored
from training.__main__ import app
from training.data.formats.checks import Findings
from training.data.formats.layouts import Split, find_data
from training.data.formats.readers import open_records
from training.data.formats.records import ImageRecord
from training.data.indexing.detection_index import build_index
from training.data.run_lengths import decoded, of_polygons
from training.data.sampling.images import read_image
from training.data.writing.conversion import OTHER_SPLITS, Conversion, Converted, convert
from training.data.writing.dota import BLANKS, ORDER, UNUSED
from training.data.writing.file_names import IN_FOLDERS, SAME_NAMES
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


@dataclass
class Read:
    """A set as its reader gives it."""

    classes: tuple[str, ...]
    images: list[ImageRecord]


def read(folder: Path, task: Task = "detect", split: Split = "train") -> Read:
    sources = find_data(folder, task)
    source = sources.train if split == "train" else sources.val
    assert source is not None
    findings = Findings(source.path)
    stream = open_records(source, findings, with_outlines=True)
    images = list(stream.images)
    findings.require_none()
    met = {instance.category for image in images for instance in image.instances}
    listed = stream.categories
    categories = listed(met) if callable(listed) else listed
    return Read(tuple(category.name for category in categories), images)


def converted(source: Path, to: str, task: Task | None = None, **options) -> tuple[Path, Converted]:
    out = source.parent / f"{source.name}-{to}"
    return out, convert(source, out, Conversion(to=to, task=task, **options))  # type: ignore[arg-type]


def coco_with(*annotations: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    """Cats in the image a.png, with these segmentations and boxes."""
    content = coco_content()
    defaults = {"image_id": 10, "category_id": 3, "iscrowd": 0, "bbox": [1, 1, 5, 5], "area": 25}
    content["annotations"] = [
        defaults | {"id": number} | each for number, each in enumerate(annotations, 1)
    ]
    return content


def run_lengths_of(mask: np.ndarray) -> dict[str, object]:
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts}


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
def test_convert__difficult_instances_lose_their_mark(source: Path, to: str) -> None:
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
def test_convert__names_with_blanks_and_any_letters(source: Path, to: str) -> None:
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
    source: Path, layout: str, orientation: int
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


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr


def test_convert_command__says_what_was_lost(source: Path, tmp_path: Path) -> None:
    write_coco(source, coco_content())
    result = run("convert", source, tmp_path / "out", "--to", "yolo")

    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "out"))
    assert f"1 x {CROWDS}" in result.stderr.splitlines()


def test_convert_command__json(source: Path, tmp_path: Path) -> None:
    write_coco(source, coco_content())
    result = run("convert", source, tmp_path / "out", "--to", "yolo", "--json")

    assert json.loads(result.stdout) == {
        "out": str(tmp_path / "out"),
        "task": "instance",
        "images": {"train": 2},
        "remarks": {CROWDS: 1},
    }


def test_convert_command__refuses_broken_data(source: Path, tmp_path: Path) -> None:
    write_dota(source, ["1 2 3", "1 1 9 1 9 6 1 6 ship 9"])
    said = refused(run("convert", source, tmp_path / "out", "--to", "yolo"))

    assert "2 problems" in said
    assert "P1.txt: line 1: needs 8 coordinates" in said
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_convert_command__refuses_names_that_are_none_of_images(source: Path) -> None:
    content = coco_content()
    content["images"][0]["file_name"] = "a"
    write_coco(source, content)
    (source / "train/a.png").rename(source / "train/a")

    said = refused(run("convert", source, source.parent / "out", "--to", "yolo"))
    assert "its name must end as those of images do" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "voc"), "unknown format 'voc'; there are: coco, dota, yolo"),
        (("--to", "yolo", "--task", "classify"), "unknown task 'classify'"),
        (("--to", "dota", "--task", "instance"), "DOTA holds rotated boxes"),
    ],
)
def test_convert_command__refuses_what_there_is_not(
    source: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    write_coco(source, coco_content())
    message = refused(run("convert", source, tmp_path / "out", *arguments))

    assert said in message
    assert message.count("\n") == 1


def test_convert_command__refuses_a_folder_that_holds_something(
    source: Path, tmp_path: Path
) -> None:
    write_coco(source, coco_content())
    write_lines(tmp_path / "out/mine.txt", ["mine"])

    said = refused(run("convert", source, tmp_path / "out", "--to", "yolo"))
    assert "holds something already" in said
    assert (tmp_path / "out/mine.txt").read_text() == "mine\n"


def test_convert_command__refuses_a_source_that_is_not_there(tmp_path: Path) -> None:
    said = refused(run("convert", tmp_path / "lost", tmp_path / "out", "--to", "yolo"))

    assert "there is no such folder" in said
    assert list(tmp_path.iterdir()) == []


def test_shapes_command__writes_a_set_for_every_task(tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    result = run("shapes", out, "--train", 2, "--val", 1, "--size", 64)

    assert (result.exit_code, result.stdout.strip()) == (0, str(out))
    assert result.stderr.splitlines()[-1] == "writing: 3 of 3 images"
    assert (find_data(out, "detect").train.format, find_data(out, "rotated").train.format) == (
        "coco",
        "dota",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--train", 0, "--val", 0), "1 to 1,000,000 images"),
        (("--train", -3), "1 to 1,000,000 images"),
        (("--size", 9), "32 to 2048 pixels a side, not 9"),
        (("--seed", -1), "seeds are whole numbers"),
        (("--layout", "voc"), "unknown layout 'voc'; there are: all, coco, dota"),
    ],
)
def test_shapes_command__refuses_what_makes_no_set(
    tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    message = refused(run("shapes", tmp_path / "out", *options))

    assert said in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_shapes_command__refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    write_lines(tmp_path / "out/mine.txt", ["mine"])

    assert "holds something already" in refused(run("shapes", tmp_path / "out", "--train", 1))


@pytest.mark.parametrize("command", ["shapes", "convert"])
def test_data_command__help_shows_an_example(command: str) -> None:
    assert f"Example: rtmdet data {command}" in run(command, "--help").stdout
