"""Faults of data sets, each planted into a clean set of shapes by a small function."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from model.config import Task
from tests.data_sets import write_image

Content = dict[str, list[dict[str, Any]]]

#: An EXIF block that states orientation 6: to be turned by 90 degrees.
_TURNED = bytes.fromhex("4d4d002a00000008000101120003000000010006000000000000")


@dataclass(frozen=True)
class Fault:
    """What is planted where, and as what it must be found: in a place that names `named`."""

    plant: Callable[[Path], None]
    kind: str
    layout: str
    task: Task
    split: str
    named: str
    also: frozenset[str]


FAULTS: dict[str, Fault] = {}


def fault(
    kind: str,
    named: str,
    *,
    layout: str = "coco",
    task: Task = "detect",
    split: str = "train",
    also: tuple[str, ...] = (),
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Registers a planting function; `also` are the kinds that cannot but come along."""

    def register(plant: Callable[[Path], None]) -> Callable[[Path], None]:
        name = plant.__name__.removeprefix("plant_")
        assert name not in FAULTS
        FAULTS[name] = Fault(plant, kind, layout, task, split, named, frozenset(also))
        return plant

    return register


def content_of(folder: Path, split: str = "train") -> tuple[Path, Content]:
    file = folder / "annotations" / f"instances_{split}.json"
    return file, json.loads(file.read_text("utf-8"))


def changed(folder: Path, change: Callable[[Content], None], split: str = "train") -> None:
    """Change COCO's JSON."""
    file, content = content_of(folder, split)
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def with_annotation(folder: Path, number: int = 5, **values: object) -> None:
    """Change values of the annotation of that id; None takes one away."""

    def change(content: Content) -> None:
        (entry,) = (each for each in content["annotations"] if each["id"] == number)
        entry.update(values)

    changed(folder, change)


def annotation(folder: Path, number: int = 5) -> dict[str, Any]:
    _, content = content_of(folder)
    (entry,) = (each for each in content["annotations"] if each["id"] == number)
    return entry


def copied_annotation(folder: Path, **values: object) -> None:
    """Annotation 5 once more, with these values changed, as 9001."""
    entry = annotation(folder) | {"id": 9001} | values
    changed(folder, lambda content: content["annotations"].append(entry))


def lines_of(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


def with_line(file: Path, line: str, *, instead_of: int | None = None) -> None:
    """Add a line at the end, or put it in place of another, counted from 0."""
    lines = lines_of(file)
    if instead_of is None:
        lines.append(line)
    else:
        lines[instead_of] = line
    file.write_text("".join(f"{each}\n" for each in lines), "utf-8")


def picture_of(file: Path) -> np.ndarray:
    picture = cv2.imread(str(file))
    assert picture is not None
    return picture


@fault("truncated-image", "train/000003.jpg")
def plant_truncated_image(folder: Path) -> None:
    file = folder / "train/000003.jpg"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@fault("undecodable-image", "train/000003.jpg")
def plant_undecodable_image(folder: Path) -> None:
    file = folder / "train/000003.jpg"
    stored = file.read_bytes()
    # The head of the file and its end, and no pixels in between.
    file.write_bytes(stored[: stored.index(b"\xff\xda")] + b"\xff\xd9")


@fault("unreadable-image", "image 3")
def plant_unreadable_image(folder: Path) -> None:
    (folder / "train/000003.jpg").write_text("a page that says: not found", "utf-8")


@fault("missing-image", "image 3")
def plant_missing_image(folder: Path) -> None:
    (folder / "train/000003.jpg").unlink()


@fault("wrong-size", "image 3")
def plant_wrong_size(folder: Path) -> None:
    changed(folder, lambda content: content["images"][2].update(width=50))


@fault("unknown-image", "annotation 5")
def plant_unknown_image(folder: Path) -> None:
    with_annotation(folder, image_id=9999)


@fault("unknown-category", "annotation 5")
def plant_unknown_category(folder: Path) -> None:
    with_annotation(folder, category_id=99)


@fault("repeated-id", "annotation 5")
def plant_repeated_id(folder: Path) -> None:
    entry = annotation(folder)
    changed(folder, lambda content: content["annotations"].append(entry))


@fault("not-finite", "annotation 5")
def plant_nan(folder: Path) -> None:
    with_annotation(folder, bbox=[10.0, float("nan"), 5.0, 5.0])


@fault("negative-box", "annotation 5")
def plant_negative_box(folder: Path) -> None:
    with_annotation(folder, bbox=[30.0, 30.0, -8.0, 5.0])


@fault("broken-annotation", "annotation 5")
def plant_box_of_three_numbers(folder: Path) -> None:
    with_annotation(folder, bbox=[30.0, 30.0, 8.0])


@fault("short-polygon", "annotation 5", task="instance")
def plant_polygon_of_two_points(folder: Path) -> None:
    with_annotation(folder, segmentation=[[1.0, 1.0, 9.0, 9.0]])


@fault("missing-outline", "annotation 5", task="instance")
def plant_missing_outline(folder: Path) -> None:
    with_annotation(folder, segmentation=None)


@fault("broken-mask", "annotation 5", task="instance")
def plant_mask_of_another_size(folder: Path) -> None:
    with_annotation(folder, segmentation={"size": [5, 5], "counts": [0, 25]})


@fault("broken-file", "instances_train.json", also=("missing-val",))
def plant_json_that_is_cut_off(folder: Path) -> None:
    (folder / "annotations/instances_val.json").unlink()
    file = folder / "annotations/instances_train.json"
    file.write_text(file.read_text("utf-8")[:-50], "utf-8")


@fault("nothing-to-train-on", "instances_train.json", also=("degenerate-box",))
def plant_nothing_to_train_on(folder: Path) -> None:
    def change(content: Content) -> None:
        for entry in content["annotations"]:
            entry.update(bbox=[1.0, 1.0, 0.5, 0.5])

    changed(folder, change)


@fault("broken-categories", "data.yaml", layout="yolo")
def plant_wrong_number_of_classes(folder: Path) -> None:
    with_line(folder / "data.yaml", "nc: 80")


@fault("pixel-coordinates", "line 1", layout="yolo")
def plant_pixel_coordinates(folder: Path) -> None:
    with_line(folder / "labels/train/000003.txt", "0 40 40 20 20", instead_of=0)


@fault("unknown-category", "line 1", layout="yolo")
def plant_class_counted_from_one(folder: Path) -> None:
    with_line(folder / "labels/train/000003.txt", "6 .5 .5 .2 .2", instead_of=0)


@fault("stray-labels", "train/labelTxt/other.txt", layout="dota", task="rotated")
def plant_stray_labels(folder: Path) -> None:
    shutil.copy(folder / "train/labelTxt/000003.txt", folder / "train/labelTxt/other.txt")


@fault("shared-label-file", "train/images/000003.png", layout="dota", task="rotated")
def plant_shared_label_file(folder: Path) -> None:
    write_image(folder / "train/images/000003.png", width=96, height=96)


@fault("untrained-class", "line 1", layout="dota", task="rotated", split="val")
def plant_class_of_val_alone(folder: Path) -> None:
    line = "10 10 50 10 50 50 10 50 heart 0"
    with_line(folder / "val/labelTxt/000003.txt", line, instead_of=0)


@fault("box-outside", "annotation 5")
def plant_box_outside(folder: Path) -> None:
    with_annotation(folder, bbox=[200.0, 200.0, 20.0, 20.0], area=300)


@fault("box-partly-outside", "annotation 5")
def plant_box_partly_outside(folder: Path) -> None:
    with_annotation(folder, bbox=[80.0, 40.0, 30.0, 20.0], area=300)


@fault("box-larger-than-image", "annotation 5")
def plant_box_larger_than_image(folder: Path) -> None:
    with_annotation(folder, bbox=[5.0, 5.0, 300.0, 200.0], area=300)


@fault("degenerate-box", "annotation 5")
def plant_degenerate_box(folder: Path) -> None:
    with_annotation(folder, bbox=[5.0, 5.0, 0.2, 20.0], area=4)


@fault("no-area", "annotation 5")
def plant_no_area(folder: Path) -> None:
    with_annotation(folder, area=0)


@fault("wrong-area", "annotation 5", task="instance")
def plant_wrong_area(folder: Path) -> None:
    with_annotation(folder, area=30000)


@fault("duplicate-annotation", "annotation 9001", task="instance")
def plant_duplicate_annotation(folder: Path) -> None:
    copied_annotation(folder)


@fault("near-duplicate-annotation", "annotation 9001")
def plant_near_duplicate_annotation(folder: Path) -> None:
    with_annotation(folder, bbox=[20.0, 20.0, 40.0, 40.0], area=900)
    copied_annotation(folder, bbox=[20.5, 20.0, 40.0, 41.0])


@fault("near-duplicate-annotation", "line 2", layout="dota", task="rotated")
def plant_near_duplicate_corners(folder: Path) -> None:
    lines = ["30 10 70 30 60 50 20 30 star 0", "30 10 70.5 30 60 50 20 30.5 star 0"]
    (folder / "train/labelTxt/000003.txt").write_text("\n".join(lines), "utf-8")


@fault("conflicting-annotation", "annotation 9001")
def plant_conflicting_annotation(folder: Path) -> None:
    copied_annotation(folder, category_id=1 + annotation(folder)["category_id"] % 6)


@fault("mask-disagrees", "annotation 5", task="instance")
def plant_box_of_another_mask(folder: Path) -> None:
    left, top, width, height = annotation(folder)["bbox"]
    left = 1.0 if left > 48 else 60.0
    with_annotation(folder, bbox=[left, top, max(width, 8), height], area=None)


@fault("crossing-polygon", "line 1", layout="yolo-polygons", task="instance")
def plant_crossing_polygon(folder: Path) -> None:
    line = "0 .1 .1 .5 .6 .5 .1 .1 .6"
    with_line(folder / "labels/train/000003.txt", line, instead_of=0)


@fault("not-a-rectangle", "line 1", layout="dota", task="rotated")
def plant_corners_of_no_rectangle(folder: Path) -> None:
    line = "10 10 60 10 30 14 10 60 star 0"
    with_line(folder / "train/labelTxt/000003.txt", line, instead_of=0)


@fault("anticlockwise-corners", "line 1", layout="dota", task="rotated")
def plant_anticlockwise_corners(folder: Path) -> None:
    line = "10 10 10 50 40 50 40 10 star 0"
    with_line(folder / "train/labelTxt/000003.txt", line, instead_of=0)


@fault("extreme-aspect", "annotation 5")
def plant_extreme_aspect(folder: Path) -> None:
    with_annotation(folder, bbox=[5.0, 5.0, 80.0, 2.0], area=150)


@fault("tiny-instances", "annotation 1", also=("wrong-area",))
def plant_tiny_instances(folder: Path) -> None:
    def change(content: Content) -> None:
        for entry in content["annotations"]:
            entry.update(bbox=[*entry["bbox"][:2], 1.1, 1.1], area=1)

    changed(folder, change)


@fault("overfull-image", "000003.jpg")
def plant_overfull_image(folder: Path) -> None:
    def change(content: Content) -> None:
        for number in range(320):
            place = [(number % 20) * 4.5, (number // 20) * 5.5, 4, 5]
            entry = {"id": 9000 + number, "image_id": 3, "category_id": 1 + number % 6}
            content["annotations"].append(entry | {"bbox": place, "area": 15})

    changed(folder, change)


@fault("crowded-image", "000003.jpg", layout="yolo")
def plant_crowded_image(folder: Path) -> None:
    places = [(0.03 + number % 12 * 0.08, 0.03 + number // 12 * 0.09) for number in range(132)]
    lines = [f"{number % 6} {x:.3f} {y:.3f} .04 .05" for number, (x, y) in enumerate(places)]
    (folder / "labels/train/000003.txt").write_text("\n".join(lines), "utf-8")


@fault("image-without-label-file", "000003.jpg", layout="yolo")
def plant_image_without_label_file(folder: Path) -> None:
    (folder / "labels/train/000003.txt").unlink()


@fault("image-without-boxes", "000003.jpg", layout="yolo")
def plant_image_without_boxes(folder: Path) -> None:
    (folder / "labels/train/000003.txt").write_text("", "utf-8")


@fault("only-crowd-or-difficult", "000003.jpg", layout="dota", task="rotated")
def plant_difficult_alone(folder: Path) -> None:
    file = folder / "train/labelTxt/000003.txt"
    file.write_text("\n".join(f"{line[:-1]}1" for line in lines_of(file)), "utf-8")


@fault("unlisted-image", "train/other.jpg")
def plant_unlisted_image(folder: Path) -> None:
    write_image(folder / "train/other.jpg", width=96, height=96)


@fault("image-listed-twice", "000003.jpg", also=("image-without-boxes",))
def plant_image_listed_twice(folder: Path) -> None:
    def change(content: Content) -> None:
        content["images"].append(content["images"][2] | {"id": 9001})

    changed(folder, change)


@fault("duplicate-image", "train/000003.jpg")
def plant_duplicate_image(folder: Path) -> None:
    shutil.copy(folder / "train/000002.jpg", folder / "train/000003.jpg")


@fault("near-duplicate-image", "train/000003.jpg")
def plant_image_saved_anew(folder: Path) -> None:
    picture = picture_of(folder / "train/000002.jpg")
    cv2.imwrite(str(folder / "train/000003.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])


@fault("leaked-image", "val/000003.jpg", split="val")
def plant_leaked_image(folder: Path) -> None:
    shutil.copy(folder / "train/000002.jpg", folder / "val/000003.jpg")


@fault("near-leaked-image", "images/val/000003.jpg", split="val", layout="yolo")
def plant_leaked_image_of_another_size(folder: Path) -> None:
    picture = cv2.resize(picture_of(folder / "images/train/000002.jpg"), (80, 80))
    cv2.imwrite(str(folder / "images/val/000003.jpg"), picture)


@fault("same-file-name", "images/val/bridge.jpg", split="val", layout="yolo")
def plant_shared_file_name(folder: Path) -> None:
    for split in ("train", "val"):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            place = folder / kind / split
            for number, file in enumerate(sorted(place.iterdir())):
                name = "bridge" if number == 2 else f"{split}-{number}"
                file.rename(place / f"{name}.{suffix}")


@fault("turned-image", "train/000003.jpg")
def plant_turned_image(folder: Path) -> None:
    file = folder / "train/000003.jpg"
    exif = b"Exif\0\0" + _TURNED
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    file.write_bytes(b"\xff\xd8" + segment + file.read_bytes()[2:])


@fault("grey-image", "train/000003.jpg")
def plant_grey_image(folder: Path) -> None:
    file = folder / "train/000003.jpg"
    cv2.imwrite(str(file), cv2.cvtColor(picture_of(file), cv2.COLOR_BGR2GRAY))


@fault("cmyk-image", "train/000003.jpg")
def plant_cmyk_image(folder: Path) -> None:
    file = folder / "train/000003.jpg"
    with Image.open(file) as picture:
        converted = picture.convert("CMYK")
    converted.save(file, "JPEG")


def as_png(folder: Path, picture: np.ndarray) -> None:
    (folder / "images/train/000003.jpg").unlink()
    cv2.imwrite(str(folder / "images/train/000003.png"), picture)


@fault("deep-image", "images/train/000003.png", layout="yolo")
def plant_deep_image(folder: Path) -> None:
    as_png(folder, picture_of(folder / "images/train/000003.jpg").astype(np.uint16) * 256)


@fault("transparent-image", "images/train/000003.png", layout="yolo")
def plant_transparent_image(folder: Path) -> None:
    picture = picture_of(folder / "images/train/000003.jpg")
    as_png(folder, cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA))


@fault("large-image", "images/train/000003.png", layout="yolo")
def plant_large_image(folder: Path) -> None:
    picture = cv2.resize(picture_of(folder / "images/train/000003.jpg"), (6000, 300))
    as_png(folder, picture)


@fault("short-sided-image", "images/train/000003.png", layout="yolo")
def plant_short_sided_image(folder: Path) -> None:
    as_png(folder, picture_of(folder / "images/train/000003.jpg")[:20])


def with_category(content: Content) -> None:
    content["categories"].append({"id": 77, "name": "heart"})


@fault("unused-category", "class 'heart'")
def plant_unused_category(folder: Path) -> None:
    for split in ("train", "val"):
        changed(folder, with_category, split)


@fault("different-classes", "class 'heart'", split="val")
def plant_class_listed_in_val_alone(folder: Path) -> None:
    changed(folder, with_category, "val")


@fault("rare-class", "class 'heart'", also=("class-missing-in-val",))
def plant_rare_class(folder: Path) -> None:
    for split in ("train", "val"):
        changed(folder, with_category, split)
    with_annotation(folder, category_id=77)


@fault("class-missing-in-val", "class 'star'", split="val", also=("image-without-boxes",))
def plant_class_missing_in_val(folder: Path) -> None:
    def change(content: Content) -> None:
        numbers = {each["name"]: each["id"] for each in content["categories"]}
        kept = [each for each in content["annotations"] if each["category_id"] != numbers["star"]]
        content["annotations"] = kept

    changed(folder, change, "val")


@fault("similar-names", "class 'star'", layout="dota", task="rotated")
def plant_similar_names(folder: Path) -> None:
    for split in ("train", "val"):
        for file in (folder / split / "labelTxt").iterdir():
            if int(file.stem) % 2:
                text = file.read_text("utf-8").replace("star", "Star")
                file.write_text(text, "utf-8")


@fault("missing-val", "instances_train.json", split="val")
def plant_missing_val(folder: Path) -> None:
    (folder / "annotations/instances_val.json").unlink()
