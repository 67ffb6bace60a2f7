"""Large images in windows: what is seen there, and how detections come back."""

import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from model.postprocess import PUBLISHED_SETTINGS, Candidates
from model.preprocess import PAD_VALUE
from model.rotated_iou import rotated_corners, rotated_iou
from tests.data_sets import index_of, write_image, write_lines
from training.data.formats.tiling import Tiling, tile_dataset
from training.data.sampling.images import UnreadableImage
from training.evaluation.inference import read_input
from training.evaluation.instances import Found
from training.evaluation.pipeline import Pipeline
from training.evaluation.tiles import TiledImages

PATCH, OVERLAP = 64, 16
#: Top and left of the windows in an image of 100 x 100: the last ones end at its border.
CORNERS = [(0, 0), (0, 36), (36, 0), (36, 36)]


@dataclass
class Pictures:
    """Pictures in a folder, by size (height, width)."""

    folder: Path
    sizes: list[tuple[int, int]]
    are_upright: bool = True

    def __post_init__(self) -> None:
        for position, (height, width) in enumerate(self.sizes):
            write_image(self.image_path(position), height=height, width=width, seed=position)

    def __len__(self) -> int:
        return len(self.sizes)

    def image_path(self, position: int) -> Path:
        return self.folder / f"{position}.png"

    def image_size(self, position: int) -> tuple[int, int]:
        return self.sizes[position]

    def pixels(self, position: int) -> np.ndarray:
        return cv2.imread(str(self.image_path(position)))


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """One of a single window, one of three, a small one, one of two rows and two columns."""
    return Pictures(tmp_path, [(64, 64), (64, 150), (40, 50), (100, 100)])


@pytest.fixture
def tiles(pictures: Pictures) -> TiledImages:
    return TiledImages(pictures, PATCH, OVERLAP)


def found_in(rows, masks=None) -> Found:
    """From rows (window, label, score, box)."""
    return Found(
        images=np.array([row[0] for row in rows], np.int64),
        labels=np.array([row[1] for row in rows], np.int64),
        scores=np.array([row[2] for row in rows], np.float32),
        boxes=np.array([row[3] for row in rows], np.float32),
        masks=masks,
    )


def rows_of(found: Found) -> list[tuple]:
    scores, boxes = (each.astype(float).round(3).tolist() for each in (found.scores, found.boxes))
    places = zip(found.images.tolist(), found.labels.tolist(), scores, strict=True)
    return [(*place, tuple(box)) for place, box in zip(places, boxes, strict=True)]


def test_tiled_images__are_the_windows_of_one_image_after_the_other(tiles):
    assert [tiles.windows_in(image) for image in range(4)] == [
        range(1),
        range(1, 4),
        range(4, 5),
        range(5, 9),
    ]
    assert len(tiles) == 9
    assert [tiles.image_path(position).stem for position in range(9)] == list("011123333")
    assert tiles.image_size(4) == (64, 64)


def test_tiled_images__show_what_lies_in_the_window(tiles, pictures):
    whole = pictures.pixels(3)

    for position, (top, left) in zip(range(5, 9), CORNERS, strict=True):
        seen = tiles.read_image(position)
        np.testing.assert_array_equal(seen, whole[top : top + 64, left : left + 64])


def test_tiled_images__are_grey_beyond_a_small_image(tiles, pictures):
    seen = tiles.read_image(4)

    np.testing.assert_array_equal(seen[:40, :50], pictures.pixels(2))
    assert (seen[40:] == PAD_VALUE).all()
    assert (seen[:, 50:] == PAD_VALUE).all()


def test_tiled_images__are_the_patches_of_a_tiled_set(tmp_path):
    folder = tmp_path / "set" / "train"
    write_image(folder / "images" / "P1.png", width=150, height=100)
    write_lines(folder / "labelTxt" / "P1.txt", ["10 10 20 10 20 20 10 20 ship 0"])
    out = tmp_path / "out"
    tiling = Tiling(patch_size=PATCH, overlap=OVERLAP)
    tile_dataset(folder / "images", folder / "labelTxt", out, tiling=tiling)

    tiles = TiledImages(index_of(tmp_path / "set", "rotated"), PATCH, OVERLAP)
    patches = {cv2.imread(str(path)).tobytes() for path in (out / "images").iterdir()}
    assert {tiles.read_image(position).tobytes() for position in range(len(tiles))} == patches
    assert len(tiles) == 6


def test_tiled_images__are_read_as_inputs(tiles, pictures):
    one = read_input(tiles, 7, (PATCH, PATCH))

    assert one.position == 7
    np.testing.assert_array_equal(one.pixels, pictures.pixels(3)[36:, :64])
    assert (one.geometry.scale_x, one.geometry.scale_y) == (1, 1)


def test_tiled_images__of_an_image_as_large_as_a_window_give_what_the_image_gives(tiles, pictures):
    tiled, whole = (read_input(images, 0, (96, 96)) for images in (tiles, pictures))

    np.testing.assert_array_equal(tiled.pixels, whole.pixels)
    assert tiled.geometry == whole.geometry


def test_tiled_images__are_the_same_from_several_threads(tiles):
    expected = [tiles.read_image(position) for position in range(len(tiles))]
    wrong = []

    def read(positions) -> None:
        for position in positions:
            if not np.array_equal(tiles.read_image(position), expected[position]):
                wrong.append(position)

    threads = [
        threading.Thread(target=read, args=(np.random.default_rng(seed).permutation(9).tolist(),))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tiled_images__name_the_file_that_cannot_be_read(tiles, pictures):
    pictures.image_path(3).write_bytes(b"no picture")

    with pytest.raises(UnreadableImage, match=r"3\.png: no image that can be decoded"):
        tiles.read_image(6)
    # And are not left with another image's pixels.
    np.testing.assert_array_equal(tiles.read_image(0), pictures.pixels(0))


def test_tiled_images__refuse_an_overlap_as_large_as_the_window(pictures):
    with pytest.raises(ValueError, match="cannot overlap by 64"):
        TiledImages(pictures, 64, 64)


def test_merged__an_instance_in_two_windows_is_found_once(tiles):
    # Windows of the second image begin at 0, 48 and 86. Seen from the first two, the same ship.
    found = found_in(
        [(1, 0, 0.8, (56, 30, 10, 6, 0.4)), (2, 0, 0.9, (8.5, 30, 10, 6, 0.4))],
    )

    assert rows_of(tiles.merged(found)) == [(1, 0, 0.9, (56.5, 30, 10, 6, 0.4))]


def test_merged__a_piece_cut_off_by_the_border_gives_way_to_the_whole(tiles):
    # The first window sees the left third of a ship that the second sees whole: 1/3 overlaps.
    found = found_in(
        [(1, 0, 0.5, (59, 30, 10, 12, 0)), (2, 0, 0.9, (21, 30, 30, 12, 0))],
    )

    assert rows_of(tiles.merged(found)) == [(1, 0, 0.9, (69, 30, 30, 12, 0))]


def test_merged__other_classes_and_other_images_are_left_alone(tiles):
    ship = (56, 30, 10, 6, 0.4)
    found = found_in([(1, 0, 0.8, ship), (2, 1, 0.9, (8, 30, 10, 6, 0.4)), (5, 0, 0.7, ship)])

    assert rows_of(tiles.merged(found)) == [
        (1, 1, 0.9, (56, 30, 10, 6, 0.4)),
        (1, 0, 0.8, ship),
        (3, 0, 0.7, ship),
    ]


def test_merged__shifts_down_and_across(tiles):
    found = found_in([(8, 2, 0.9, (1, 2, 11, 22))])

    assert rows_of(tiles.merged(found)) == [(3, 2, 0.9, (37, 38, 47, 58))]


@pytest.mark.parametrize(
    ("threshold", "count"), [(None, 2), (0.4, 1), (PUBLISHED_SETTINGS["detect"].iou_threshold, 2)]
)
def test_merged__upright_boxes_by_the_threshold_of_their_suppression(tiles, threshold, count):
    # 20 x 20, moved by a third of it: 1/2 overlaps.
    found = found_in([(1, 0, 0.8, (40, 20, 60, 40)), (2, 0, 0.9, (0, 20, 18.667, 40))])

    assert len(tiles.merged(found, threshold)) == count


def test_merged__an_image_of_one_window_is_as_it_was(tiles):
    # Two ships on one another, as a network's own suppression at another threshold left them.
    boxes = [(0, 0, 0.8, (20, 20, 30, 10, 0.3)), (0, 0, 0.9, (24, 22, 30, 10, 0.4))]

    assert rows_of(tiles.merged(found_in(boxes))) == rows_of(found_in(boxes))


def test_merged__nothing_stays_nothing(tiles):
    for columns in (4, 5):
        empty = Found(
            images=np.zeros(0, np.int64),
            labels=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
            boxes=np.zeros((0, columns), np.float32),
        )
        assert tiles.merged(empty).boxes.shape == (0, columns)


class WhiteShapes:
    """Finds what is white in its inputs; the larger the surer, from `least_score` on."""

    task = "rotated"
    input_size = (PATCH, PATCH)
    description = "contours"
    concurrency = 2
    max_batch_size = 2

    def __init__(self, least_score: float) -> None:
        self.least_score = least_score

    def candidates(self, inputs) -> list[Candidates]:
        return [self._found(each.pixels) for each in inputs]

    def _found(self, pixels: np.ndarray) -> Candidates:
        contours, _ = cv2.findContours(
            (pixels[..., 0] > 200).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        found = [cv2.minAreaRect(contour) for contour in contours]
        boxes = [(*centre, *sides, np.radians(degrees)) for centre, sides, degrees in found]
        return Candidates(
            boxes=np.array(boxes, np.float32).reshape(-1, 5),
            scores=np.array(
                [self.least_score + cv2.contourArea(each) / 1000 for each in contours], np.float32
            ),
            labels=np.zeros(len(contours), np.int32),
        )


def found_by(images, positions, least_score: float = 0) -> Found:
    settings = PUBLISHED_SETTINGS["rotated"]
    pipeline = Pipeline(images, WhiteShapes(least_score), settings, batch_size=2, num_threads=2)
    return Found.joined([each for batch in pipeline.run(positions) for each in batch])


def test_merged__every_ship_of_a_large_image_is_found_once(tmp_path):
    pictures = Pictures(tmp_path, [(64, 150)])
    ships = np.array([(20, 20, 24, 10, 0.4), (48, 40, 24, 10, -0.9), (90, 24, 24, 12, 1.2)])
    sea = np.zeros((64, 150, 3), np.uint8)
    for corners in rotated_corners(ships):
        cv2.fillConvexPoly(sea, np.round(corners).astype(np.int32), (255, 255, 255))
    assert cv2.imwrite(str(pictures.image_path(0)), sea)
    tiles = TiledImages(pictures, PATCH, 32)

    found = found_by(tiles, range(len(tiles)))
    merged = tiles.merged(found)
    # Some are seen whole from two windows, and as pieces from others; slivers score too low.
    assert len(found) >= 6
    assert len(merged) == 3
    ratios = rotated_iou(merged.boxes[np.argsort(merged.boxes[:, 0])], ships)
    assert ratios.min() > 0.75


def test_merged__of_an_image_as_large_as_a_window_is_what_the_image_gives(tmp_path):
    pictures = Pictures(tmp_path, [(64, 64)])

    # In noise there is much to be found.
    whole = found_by(pictures, [0], 0.1)
    merged = TiledImages(pictures, PATCH, OVERLAP).merged(
        found_by(TiledImages(pictures, PATCH, OVERLAP), [0], 0.1)
    )
    assert len(whole) > 20
    for name in ("images", "labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_merged__masks_come_to_their_place_in_the_image(tiles):
    # In the last window of the fourth image, whose corner is (36, 36) of 100 x 100.
    seen = np.zeros((64, 64), np.uint8, order="F")
    seen[10:20, 30:64] = 1
    found = found_in([(8, 0, 0.9, (30, 10, 64, 20))], (coco_mask.encode(seen)["counts"],))

    (mask,) = tiles.merged(found).masks
    expected = np.zeros((100, 100), np.uint8, order="F")
    expected[46:56, 66:100] = 1
    assert mask == coco_mask.encode(expected)["counts"]


def test_merged__masks_are_cut_off_where_the_image_ends(tiles):
    full = coco_mask.encode(np.ones((64, 64), np.uint8, order="F"))["counts"]
    found = found_in([(4, 0, 0.9, (0, 0, 64, 64))], (full,))

    (mask,) = tiles.merged(found).masks
    assert coco_mask.area({"size": [40, 50], "counts": mask}) == 40 * 50


def test_merged__thousands_of_detections_in_an_image(tmp_path):
    # A grid of ships, each seen from every window that it lies in.
    tiles = TiledImages(Pictures(tmp_path, [(1000, 1000)]), 250, 100)
    ships = [(x, y) for x in range(4, 1000, 8) for y in range(4, 1000, 8)]
    corners = [(left, top) for top in range(0, 751, 150) for left in range(0, 751, 150)]
    assert len(corners) == len(tiles)
    found = found_in(
        [
            (window, 0, 0.5 + window / 100, (x - left, y - top, 6, 3, 0.1))
            for window, (left, top) in enumerate(corners)
            for x, y in ships
            if 4 <= x - left <= 246 and 4 <= y - top <= 246
        ]
    )
    assert len(found) > 30_000

    merged = tiles.merged(found)
    assert sorted(map(tuple, merged.boxes[:, :2].tolist())) == sorted(ships)
