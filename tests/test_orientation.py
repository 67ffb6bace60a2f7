"""Pictures that their metadata turn: which pixels the annotations of each format count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data_sets import coco_content, index_of, write_coco, write_dota, write_yolo
from tests.drawn_scenes import scenes_config
from tests.pictures import as_stored, gradient_rgb
from training.config import FlipConfig, StageConfig
from training.data.decoding import Pixels
from training.data.indexing.detection_index import DetectionIndex
from training.data.sampling.drafts import Draft
from training.data.sampling.rendering import Renderer
from training.evaluation.inference import read_input

SIDE = 64
#: Half a turn, mirrored, and a quarter: none of them shows in the size of a square picture.
TURNS = (2, 3, 4, 6)

#: Shows the image as it is.
PLAIN = StageConfig(name="plain", colour=False, scale_range=None, flip=FlipConfig(horizontal=0.0))


def picture() -> Pixels:
    return gradient_rgb(SIDE, SIDE)


def write_turned(path: Path, orientation: int) -> None:
    """A photograph that a viewer shows as `picture`."""
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(as_stored(picture(), orientation))
    stored.save(path, "JPEG", exif=exif, quality=95, subsampling=0)


def labelled(folder: Path, layout: str, orientation: int) -> DetectionIndex:
    """A set of one such photograph, by its format."""
    if layout == "yolo":
        write_yolo(folder, ["0 0.25 0.25 0.25 0.25"])
        (folder / "images/train/a.png").rename(folder / "images/train/a.jpg")
        write_turned(folder / "images/train/a.jpg", orientation)
        return index_of(folder)
    write_dota(folder, ["8 8 24 8 24 24 8 24 ship 0"])
    (folder / "train/images/P1.png").rename(folder / "train/images/P1.jpg")
    write_turned(folder / "train/images/P1.jpg", orientation)
    return index_of(folder)


def differs(read: Pixels, wanted: Pixels) -> float:
    """Grey levels between pictures on average; one and the same differ by the compression."""
    return float(np.abs(read[..., ::-1].astype(int) - wanted).mean())


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("layout", ["yolo", "dota"])
def test_evaluation__sees_upright_what_was_annotated_upright(
    tmp_path: Path, layout: str, orientation: int
) -> None:
    index = labelled(tmp_path / "set", layout, orientation)

    pixels = read_input(index, 0, (SIDE, SIDE)).pixels

    assert differs(pixels, picture()) < 3


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("layout", ["yolo", "dota"])
def test_training__sees_upright_what_was_annotated_upright(
    tmp_path: Path, layout: str, orientation: int
) -> None:
    index = labelled(tmp_path / "set", layout, orientation)

    config = scenes_config("detect", stage=PLAIN)
    config = replace(config, model=replace(config.model, input_size=(SIDE, SIDE)))
    sample = Renderer(index, np.array([0]), config).render(Draft(stage=0, position=0, seed=1))

    assert differs(sample.image, picture()) < 3


@pytest.mark.parametrize("orientation", TURNS)
def test_coco__sees_square_pictures_as_they_are_stored(tmp_path: Path, orientation: int) -> None:
    content = coco_content()
    for image in content["images"]:
        image |= {"width": SIDE, "height": SIDE}
    content["annotations"].pop()
    write_coco(tmp_path / "set", content)
    for name in ("a.png", "b.png"):
        write_turned(tmp_path / "set" / "train" / name, orientation)

    pixels = read_input(index_of(tmp_path / "set"), 0, (SIDE, SIDE)).pixels

    assert differs(pixels, as_stored(picture(), orientation)) < 3
