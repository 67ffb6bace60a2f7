"""Faults of annotations and classes, each planted into a clean set of shapes by a function."""

import shutil
from pathlib import Path

from tests.data_sets import write_image
from tests.planting import (
    Content,
    Faults,
    annotation,
    changed,
    copied_annotation,
    lines_of,
    with_annotation,
    with_line,
)

ANNOTATION_FAULTS = Faults()
fault = ANNOTATION_FAULTS.fault


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
