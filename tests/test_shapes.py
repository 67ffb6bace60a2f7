"""Synthetic scenes: every kind of annotation tells of the same shape; written sets hold them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from model.rotated_iou import rotated_corners, rotated_iou
from tests.plain_scenes import SHAPE_NAMES, scene
from training.data.synthetic.data_set import split_scenes, write_shapes
from training.data.synthetic.scenes import Scene

RECTANGLE = SHAPE_NAMES.index("rectangle")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(seed) for seed in range(40)]


def written(folder: Path, layout: str, **options) -> Path:
    write_shapes(folder / layout, num_train=3, num_val=2, size=64, seed=7, layout=layout, **options)
    return folder / layout


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def numbers_in(line: str) -> list[float]:
    return [float(word) for word in line.split() if word not in SHAPE_NAMES]


def test_scene__is_the_same_for_the_same_seed():
    one, other = scene(5), scene(5)

    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.rotated_boxes, other.rotated_boxes)
    np.testing.assert_array_equal(one.masks, other.masks)


def test_scene__differs_between_seeds():
    assert (scene(5).image != scene(6).image).any()


def test_scene__does_not_touch_global_random_state():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    scene(5)

    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_scene__has_one_to_four_shapes_of_every_kind(scenes):
    assert {len(each) for each in scenes} == {1, 2, 3, 4}
    assert set(np.concatenate([each.labels for each in scenes])) == set(range(len(SHAPE_NAMES)))


@pytest.mark.parametrize("size", [64, 160, 320])
def test_scene__boxes_are_the_tightest_around_the_masks(size):
    one = scene(11, size)

    assert one.image.shape == (size, size, 3)
    assert one.masks.shape == (len(one), size, size)
    for mask, box in zip(one.masks, one.boxes, strict=True):
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        np.testing.assert_array_equal(box, [x, y, x + width, y + height])


def test_scene__masks_do_not_overlap(scenes):
    assert max(each.masks.sum(axis=0).max() for each in scenes) == 1


def test_scene__polygons_cover_the_masks(scenes):
    for each in scenes:
        size = each.image.shape[0]
        for polygon, mask in zip(each.polygons, each.masks, strict=True):
            rle = coco_mask.merge(coco_mask.frPyObjects([polygon.ravel().tolist()], size, size))
            whole = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            assert coco_mask.iou([rle], [whole], [0])[0, 0] > 0.9


def test_scene__angle_is_that_of_the_masks_longest_axis(scenes):
    for each in scenes:
        for mask, box in zip(each.masks, each.rotated_boxes, strict=True):
            rows, columns = np.nonzero(mask)
            axes = np.linalg.eigh(np.cov(columns, rows))[1]
            along = np.array([np.cos(box[4]), np.sin(box[4])])
            assert abs(along @ axes[:, 1]) > np.cos(np.radians(8))


def test_scene__rotated_box_encloses_the_polygon_exactly(scenes):
    for each in scenes:
        for polygon, box in zip(each.polygons, each.rotated_boxes, strict=True):
            cos, sin = np.cos(box[4]), np.sin(box[4])
            inside = (polygon - box[:2]) @ np.array([[cos, -sin], [sin, cos]])
            np.testing.assert_allclose(inside.max(axis=0), box[2:4] / 2, atol=1e-3)
            np.testing.assert_allclose(inside.min(axis=0), -box[2:4] / 2, atol=1e-3)


def test_scene__rectangles_agree_with_the_smallest_box_around_their_mask(scenes):
    found = [
        (box, cv2.minAreaRect(np.argwhere(mask)[:, ::-1].astype(np.float32)))
        for each in scenes
        for mask, box, label in zip(each.masks, each.rotated_boxes, each.labels, strict=True)
        if label == RECTANGLE
    ]
    assert len(found) > 5
    for box, (centre, (width, height), degrees) in found:
        # Through the centres of pixels: half a pixel is missing on every side.
        around = [*np.add(centre, 0.5), width + 1, height + 1, np.radians(degrees)]
        assert rotated_iou([box], [around])[0] > 0.85


def test_scene__shapes_stand_out_from_the_background(scenes):
    for each in scenes:
        outside = each.image[~each.masks.any(axis=0)].mean(axis=0)
        for mask in each.masks:
            assert np.abs(each.image[mask].mean(axis=0) - outside).max() > 20


def test_write_shapes__coco_holds_what_the_scenes_have(tmp_path: Path, capsys):
    folder = written(tmp_path, "coco")
    truth = COCO(str(folder / "annotations" / "instances_val.json"))
    capsys.readouterr()
    scenes = list(split_scenes("val", 2, size=64, seed=7))

    assert [truth.cats[key]["name"] for key in sorted(truth.cats)] == list(SHAPE_NAMES)
    for image_id, one in zip(sorted(truth.imgs), scenes, strict=True):
        image = cv2.imread(str(folder / "val" / truth.imgs[image_id]["file_name"]))
        np.testing.assert_array_equal(image, one.image)
        annotations = truth.imgToAnns[image_id]
        boxes = np.array([each["bbox"] for each in annotations])
        np.testing.assert_array_equal(boxes[:, :2] + boxes[:, 2:], one.boxes[:, 2:])
        np.testing.assert_array_equal(boxes[:, :2], one.boxes[:, :2])
        assert [each["category_id"] - 1 for each in annotations] == one.labels.tolist()
        for each, polygon in zip(annotations, one.polygons, strict=True):
            np.testing.assert_allclose(each["segmentation"][0], polygon.ravel(), atol=1e-3)


def test_write_shapes__dota_holds_corners_and_class_names(tmp_path: Path):
    folder = written(tmp_path, "dota")
    scenes = list(split_scenes("train", 3, size=64, seed=7))

    texts = sorted((folder / "train" / "labelTxt").iterdir())
    assert len(texts) == len(list((folder / "train" / "images").iterdir())) == 3
    for path, one in zip(texts, scenes, strict=True):
        lines = path.read_text().splitlines()
        corners = np.array([numbers_in(line)[:8] for line in lines]).reshape(-1, 4, 2)
        np.testing.assert_allclose(corners, rotated_corners(one.rotated_boxes), atol=1e-3)
        assert [line.split()[8] for line in lines] == [SHAPE_NAMES[i] for i in one.labels]
        assert {line.split()[9] for line in lines} == {"0"}


@pytest.mark.parametrize(
    ("layout", "of_scene"),
    [
        ("yolo", lambda one: [((b[:2] + b[2:]) / 2, b[2:] - b[:2]) for b in one.boxes]),
        ("yolo-polygons", lambda one: one.polygons),
        ("yolo-oriented", lambda one: rotated_corners(one.rotated_boxes)),
    ],
)
def test_write_shapes__yolo_holds_shares_of_the_side(layout, of_scene, tmp_path: Path):
    folder = written(tmp_path, layout)
    scenes = list(split_scenes("val", 2, size=64, seed=7))

    texts = sorted((folder / "labels" / "val").iterdir())
    for path, one in zip(texts, scenes, strict=True):
        assert (folder / "images" / "val" / f"{path.stem}.png").is_file()
        for line, label, values in zip(
            path.read_text().splitlines(), one.labels, of_scene(one), strict=True
        ):
            first, *shares = numbers_in(line)
            assert first == label
            np.testing.assert_allclose(np.array(shares) * 64, np.ravel(values), atol=1e-3)
    assert "0: rectangle" in (folder / "data.yaml").read_text()


@pytest.mark.parametrize("layout", ["coco", "dota", "yolo", "yolo-polygons", "yolo-oriented"])
def test_write_shapes__is_the_same_for_the_same_seed(layout, tmp_path: Path):
    one, other = written(tmp_path / "one", layout), written(tmp_path / "other", layout)

    assert files_of(one) == files_of(other)


def test_write_shapes__splits_and_seeds_share_no_scene():
    first = [
        next(split_scenes(split, 1, size=64, seed=seed)).image.tobytes()
        for split in ("train", "val")
        for seed in (0, 1)
    ]
    assert len(set(first)) == 4


def test_write_shapes__tells_how_far_it_is(tmp_path: Path):
    told: list[tuple[int, int]] = []
    written(tmp_path, "coco", progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_write_shapes__leaves_nothing_when_it_is_interrupted(tmp_path: Path):
    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, "coco", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_write_shapes__does_not_write_over_anything(tmp_path: Path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("mine")

    with pytest.raises(ValueError, match="holds something already"):
        written(tmp_path, "coco")
    assert files_of(tmp_path) == {"coco/mine.txt": b"mine"}


def test_write_shapes__fills_an_empty_folder(tmp_path: Path):
    (tmp_path / "coco").mkdir()

    assert json.loads((written(tmp_path, "coco") / "annotations/instances_val.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "voc"}, "unknown layout 'voc'"),
        ({"num_train": 0, "num_val": 0}, "1 to 1000000 images"),
        ({"num_train": -1}, "1 to 1000000 images"),
        ({"size": 8}, "at least 32 pixels"),
    ],
)
def test_write_shapes__refuses_what_makes_no_set(options, message, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        write_shapes(tmp_path / "set", **({"num_train": 1, "num_val": 1} | options))
