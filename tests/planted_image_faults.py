"""Faults of images, each planted into a clean set of shapes by a small function."""

import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.data_sets import write_image
from tests.planting import Content, Faults, changed

IMAGE_FAULTS = Faults()
fault = IMAGE_FAULTS.fault

#: An EXIF block that states orientation 6: to be turned by 90 degrees.
_TURNED = bytes.fromhex("4d4d002a00000008000101120003000000010006000000000000")


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
