"""Written sets of shapes: in every layout they hold what the scenes have, however made."""

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from model.rotated_iou import rotated_corners
from tests.conftest import PROJECT
from tests.plain_scenes import scene as plain_scene
from training.data.formats.layouts import find_data
from training.data.indexing.detection_index import build_index
from training.data.run_lengths import decoded
from training.data.synthetic.data_set import ShapesPlan, split_scenes, write_shapes
from training.data.synthetic.outlines import SHAPE_NAMES
from training.data.synthetic.scene_records import ShapesLayout
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

#: More scenes than several processes are given at once.
MANY = ShapesPlan(num_train=70, num_val=3, size=32, seed=7)


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


def test_write_shapes__gives_the_same_in_several_processes(tmp_path: Path) -> None:
    write_shapes(tmp_path / "one", MANY, jobs=1)
    write_shapes(tmp_path / "other", MANY, jobs=2)

    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


# What models were trained and measured on: a seed must give the same annotations for ever.
DIGESTS = {
    "all": "0b9f8cadd67f16ce059042874699dc13",
    "coco": "1ff83150dc4ebfe1dfa29b23f718b19b",
    "dota": "dc8d660e85a3e181765e430cf0ff7224",
    "yolo": "49a22a0df0201a9e0f7d7bec2930b2a1",
    "yolo-polygons": "b585e0964539d812c5b74fd1ec3188e1",
    "yolo-oriented": "90c915e66837d1c9584db17786e93e88",
}


@pytest.mark.skipif(
    (cv2.__version__, platform.machine()) != ("5.0.0", "x86_64"),
    reason="other versions may round otherwise; recorded with OpenCV 5.0.0 on x86_64",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_write_shapes__writes_the_annotations_that_were_recorded(
    layout: ShapesLayout, tmp_path: Path
) -> None:
    files = files_of(written(tmp_path, layout))
    texts = [name for name in sorted(files) if not name.endswith((".jpg", "shapes.json"))]

    content = b"".join(name.encode() + files[name] for name in texts)
    assert hashlib.sha256(content).hexdigest()[:32] == DIGESTS[layout]


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


@pytest.mark.parametrize(
    ("layout", "meant"),
    [
        ("all", "segmentation"),
        ("dota", "corners"),
        ("yolo", "boxes"),
        ("yolo-polygons", "polygons"),
    ],
)
def test_write_shapes__says_what_its_annotations_mean(
    tmp_path: Path, layout: ShapesLayout, meant: str
) -> None:
    made = json.loads((written(tmp_path, layout) / "shapes.json").read_text())

    meanings = {"segmentation", "corners", "boxes", "polygons"}
    assert meanings & made.keys() == {meant}


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
        write_shapes(tmp_path / "set", MANY, jobs=jobs, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGHUP), (2, signal.SIGTERM)])
def test_shapes_command__leaves_nothing_when_it_is_stopped(
    tmp_path: Path, jobs: int, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "rtmdet", "data", "shapes", str(tmp_path / "set")]
    options = ["--train", "5000", "--size", "32", "--jobs", str(jobs)]
    with subprocess.Popen([*command, *options], cwd=PROJECT, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"writing: 1 of")
        process.send_signal(number)
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def killed(_seed: int, _size: int) -> Scene:
    """What the system does to a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_write_shapes__says_that_a_process_was_killed(tmp_path: Path) -> None:
    plan = ShapesPlan(num_train=1, num_val=0, size=32, draw=killed)

    with pytest.raises(ChildProcessError, match="was killed, perhaps for want of memory"):
        write_shapes(tmp_path / "set", plan, jobs=2)
    assert list(tmp_path.iterdir()) == []


def test_write_shapes__does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("mine")

    with pytest.raises(ValueError, match="holds something already"):
        written(tmp_path, "coco")
    assert files_of(tmp_path) == {"coco/mine.txt": b"mine"}


@pytest.mark.parametrize("folder", [".", "..", "/proc"])
def test_write_shapes__refuses_at_once_what_cannot_be_replaced(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ValueError, match="name a new folder"):
        write_shapes(Path(folder), MANY, progress=lambda done, _total: pytest.fail(f"{done} drawn"))
    assert list(tmp_path.iterdir()) == []


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
