"""Written sets of shapes: in every layout they hold what the scenes have, however made."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from model.rotated_iou import rotated_corners
from tests.plain_scenes import scene as plain_scene
from training.data.formats.layouts import find_data
from training.data.indexing.detection_index import build_index
from training.data.run_lengths import decoded
from training.data.synthetic.data_set import ShapesLayout, ShapesPlan, split_scenes, write_shapes
from training.data.synthetic.outlines import SHAPE_NAMES
from training.data.synthetic.scenes import Scene

LAYOUTS: tuple[ShapesLayout, ...] = (
    "all",
    "coco",
    "dota",
    "yolo",
    "yolo-polygons",
    "yolo-oriented",
)
SIZE = 96


def written(folder: Path, layout: ShapesLayout = "all", **options) -> Path:
    plan = ShapesPlan(num_train=3, num_val=2, size=SIZE, seed=7, layout=layout)
    write_shapes(folder / layout, plan, **options)
    return folder / layout


def scenes_of(split: str) -> list[Scene]:
    return list(split_scenes(split, {"train": 3, "val": 2}[split], size=SIZE, seed=7))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("layout", ["all", "coco"])
def test_write_shapes__coco_holds_what_the_scenes_have(
    tmp_path: Path, layout: ShapesLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, layout)
    truth = COCO(str(folder / "annotations" / "instances_val.json"))
    capsys.readouterr()

    assert [truth.cats[key]["name"] for key in sorted(truth.cats)] == list(SHAPE_NAMES)
    for image_id, one in zip(sorted(truth.imgs), scenes_of("val"), strict=True):
        annotations = truth.imgToAnns[image_id]
        boxes = np.array([each["bbox"] for each in annotations])
        np.testing.assert_array_equal(boxes[:, :2] + boxes[:, 2:], one.boxes[:, 2:])
        np.testing.assert_array_equal(boxes[:, :2], one.boxes[:, :2])
        assert [each["category_id"] - 1 for each in annotations] == one.labels.tolist()
        masks = [
            decoded(each["segmentation"]["counts"].encode(), SIZE, SIZE) for each in annotations
        ]
        np.testing.assert_array_equal(masks, one.masks)
        assert [each["area"] for each in annotations] == one.masks.sum(axis=(1, 2)).tolist()
        rotated = [each["rotated_bbox"] for each in annotations]
        np.testing.assert_allclose(rotated, one.rotated_boxes, atol=1e-4)


@pytest.mark.parametrize("layout", ["all", "dota"])
def test_write_shapes__dota_holds_corners_and_class_names(
    tmp_path: Path, layout: ShapesLayout
) -> None:
    folder = written(tmp_path, layout)

    texts = sorted((folder / "train" / "labelTxt").iterdir())
    for path, one in zip(texts, scenes_of("train"), strict=True):
        rows = [line.split() for line in path.read_text().splitlines()]
        corners = np.array([row[:8] for row in rows], np.float64).reshape(-1, 4, 2)
        np.testing.assert_allclose(corners, rotated_corners(one.rotated_boxes), atol=1e-3)
        assert [row[8] for row in rows] == [SHAPE_NAMES[label] for label in one.labels]
        assert {row[9] for row in rows} == {"0"}


@pytest.mark.parametrize(
    ("layout", "of_scene"),
    [
        ("yolo", lambda one: [((b[:2] + b[2:]) / 2, b[2:] - b[:2]) for b in one.boxes]),
        ("yolo-polygons", lambda one: [np.clip(each, 0, SIZE) for each in one.polygons]),
        ("yolo-oriented", lambda one: rotated_corners(one.rotated_boxes)),
    ],
)
def test_write_shapes__yolo_holds_shares_of_the_side(layout, of_scene, tmp_path: Path) -> None:
    folder = written(tmp_path, layout)

    texts = sorted((folder / "labels" / "val").iterdir())
    for path, one in zip(texts, scenes_of("val"), strict=True):
        assert (folder / "images" / "val" / f"{path.stem}.jpg").is_file()
        for line, label, values in zip(
            path.read_text().splitlines(), one.labels, of_scene(one), strict=True
        ):
            first, *shares = (float(word) for word in line.split())
            assert first == label
            np.testing.assert_allclose(np.array(shares) * SIZE, np.ravel(values), atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_write_shapes__gives_the_same_in_several_processes(
    layout: ShapesLayout, tmp_path: Path
) -> None:
    one, other = written(tmp_path / "one", layout), written(tmp_path / "other", layout, jobs=2)

    assert files_of(one) == files_of(other)


def test_write_shapes__images_are_the_scenes(tmp_path: Path) -> None:
    folder = written(tmp_path)

    for path, one in zip(sorted((folder / "val/images").iterdir()), scenes_of("val"), strict=True):
        image = cv2.imread(str(path))
        assert image is not None
        # As far as JPEG keeps them: noise is lost.
        assert np.abs(image.astype(int) - one.image).mean() < 10


@pytest.mark.parametrize(
    ("task", "found"), [("detect", "coco"), ("instance", "coco"), ("rotated", "dota")]
)
def test_write_shapes__one_set_suits_every_task(task, found: str, tmp_path: Path) -> None:
    sources = find_data(written(tmp_path), task)

    assert sources.val is not None
    assert (sources.train.format, sources.val.format) == (found, found)
    index = build_index(sources.val, task=task, folder=tmp_path / "index")
    assert len(index) == 2
    one = scenes_of("val")[0]
    assert len(index.annotations(0)) == len(one)


def test_write_shapes__images_lie_there_once(tmp_path: Path) -> None:
    assert len(list(written(tmp_path).rglob("*.jpg"))) == 5


def test_write_shapes__says_how_it_was_made(tmp_path: Path) -> None:
    made = json.loads((written(tmp_path) / "shapes.json").read_text())

    command = "rtmdet data shapes OUT --train 3 --val 2 --size 96 --seed 7 --layout all"
    assert (made["made_by"], made["scenes_version"]) == (command, 1)


def test_write_shapes__draws_what_it_is_told_to_draw(tmp_path: Path) -> None:
    plan = ShapesPlan(num_train=1, num_val=0, size=64, draw=plain_scene)
    write_shapes(tmp_path / "set", plan)

    rows = (tmp_path / "set/train/labelTxt/000001.txt").read_text().splitlines()
    assert len(rows) == len(plain_scene(0, 64))


def test_write_shapes__without_images_to_validate(tmp_path: Path) -> None:
    write_shapes(tmp_path / "set", ShapesPlan(num_train=1, num_val=0, size=64))

    assert find_data(tmp_path / "set", "detect").val is None
    assert not (tmp_path / "set" / "val").exists()


def test_split_scenes__splits_and_seeds_share_no_scene() -> None:
    first = [
        next(split_scenes(split, 1, size=64, seed=seed)).image.tobytes()
        for split in ("train", "val")
        for seed in (0, 1)
    ]
    assert len(set(first)) == 4


@pytest.mark.parametrize("jobs", [1, 2])
def test_write_shapes__tells_how_far_it_is(tmp_path: Path, jobs: int) -> None:
    told: list[tuple[int, int]] = []
    written(tmp_path, jobs=jobs, progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_write_shapes__leaves_nothing_when_it_is_interrupted(tmp_path: Path, jobs: int) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, jobs=jobs, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_write_shapes__does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("mine")

    with pytest.raises(ValueError, match="holds something already"):
        written(tmp_path, "coco")
    assert files_of(tmp_path) == {"coco/mine.txt": b"mine"}


def test_write_shapes__fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()

    assert (written(tmp_path, "coco") / "annotations/instances_val.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "voc"}, "unknown layout 'voc'; there are: all, coco"),
        ({"num_train": 0, "num_val": 0}, "1 to 1,000,000 images"),
        ({"num_train": -1}, "1 to 1,000,000 images"),
        ({"num_val": 10**6 + 1}, "1 to 1,000,000 images"),
        ({"size": 31}, "32 to 2048 pixels a side, not 31"),
        ({"size": 2049}, "32 to 2048 pixels a side, not 2049"),
        ({"seed": -1}, "seeds are whole numbers from 0"),
    ],
)
def test_shapes_plan__refuses_what_makes_no_set(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesPlan(**({"num_train": 1, "num_val": 1} | options))
