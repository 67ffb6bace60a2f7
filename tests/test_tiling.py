"""Cutting large images into patches."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPoint, box

from tests.data_sets import write_image, write_lines
from training.data.formats.checks import BrokenData
from training.data.formats.layouts import find_data
from training.data.formats.tiling import (
    Tiling,
    Window,
    patch_name,
    share_inside,
    tile_dataset,
    windows_of,
)
from training.data.indexing.detection_index import build_index

SMALL = Tiling(patch_size=64, overlap=16)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An image of 100x64 pixels with three ships."""
    folder = tmp_path / "whole" / "train"
    write_image(folder / "images" / "P1.png", width=100, height=64)
    lines = [
        "imagesource:GoogleEarth",
        "10 10 20 10 20 20 10 20 ship 0",
        # 4 of 20 columns lie in the left patch, all in the right one.
        "60 30 80 30 80 40 60 40 ship 0",
        "90 50 95 50 95 55 90 55 harbor 1",
    ]
    write_lines(folder / "labelTxt" / "P1.txt", lines)
    return folder


def tile(source: Path, out: Path, tiling: Tiling = SMALL) -> int:
    return tile_dataset(source / "images", source / "labelTxt", out, tiling=tiling)


def lines_of(out: Path, stem: str) -> list[str]:
    return (out / "labelTxt" / f"{stem}.txt").read_text("utf-8").splitlines()


def test_windows__the_last_is_moved_back_to_the_border() -> None:
    lefts = [window.left for window in windows_of(1024, 2000, Tiling())]

    assert lefts == [0, 824, 976]


def test_windows__one_is_enough_for_a_small_image() -> None:
    assert list(windows_of(500, 1024, Tiling())) == [Window(0, 0, 1024)]


def test_windows__are_larger_in_the_original_at_smaller_scales() -> None:
    sides = {window.side for window in windows_of(1500, 1500, Tiling(scales=(0.5, 1.0, 1.5)))}

    assert sides == {2048, 1024, 683}


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(0, 900),
    st.sampled_from([(1.0,), (0.5, 1.5)]),
)
def test_windows__cover_the_image_and_overlap_as_asked(
    height: int, width: int, overlap: int, scales: tuple[float, ...]
) -> None:
    tiling = Tiling(overlap=overlap, scales=scales)
    windows = list(windows_of(height, width, tiling))

    for side in {window.side for window in windows}:
        asked = round(overlap * side / 1024)
        for axis, length in ((0, width), (1, height)):
            starts = sorted({window[axis] for window in windows if window.side == side})
            assert starts[0] == 0
            assert starts[-1] == max(length - side, 0)
            gaps = np.diff(starts)
            assert (gaps <= side - asked + 1).all()


def test_patch_name__is_that_of_dota() -> None:
    assert patch_name("P0001", Window(824, 0, 1024)) == "P0001__1024__824___0"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-90, 190), st.integers(-90, 190)), min_size=4, max_size=4))
def test_share_inside__is_that_of_shapely(corners: list[tuple[int, int]]) -> None:
    shape = MultiPoint(corners).convex_hull
    if shape.area == 0:
        return
    expected = shape.intersection(box(10, 20, 110, 120)).area / shape.area

    share = share_inside(np.float32(corners), Window(10, 20, 100))

    # OpenCV intersects in single precision; slivers lose a little more.
    assert share == pytest.approx(expected, abs=1e-4)


def test_tile_dataset__writes_every_patch(source: Path, tmp_path: Path) -> None:
    assert tile(source, tmp_path / "out") == 2

    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert names == ["P1__64__0___0.png", "P1__64__36___0.png"]


def test_tile_dataset__patches_show_their_place(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out")

    whole = cv2.imread(str(source / "images" / "P1.png"))
    patch = cv2.imread(str(tmp_path / "out" / "images" / "P1__64__36___0.png"))
    assert whole is not None
    np.testing.assert_array_equal(patch, whole[:64, 36:100])


def test_tile_dataset__fills_with_grey_beyond_the_image(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out", Tiling(patch_size=128, overlap=0))

    patch = cv2.imread(str(tmp_path / "out" / "images" / "P1__128__0___0.png"))
    assert patch is not None
    assert patch.shape == (128, 128, 3)
    assert (patch[64:] == 114).all()
    assert (patch[:, 100:] == 114).all()


def test_tile_dataset__moves_annotations_into_the_patch(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out")

    lines = lines_of(tmp_path / "out", "P1__64__36___0")
    assert lines[0] == "24.00 30.00 44.00 30.00 44.00 40.00 24.00 40.00 ship 0"


def test_tile_dataset__keeps_what_is_difficult(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out")

    assert lines_of(tmp_path / "out", "P1__64__36___0")[1].endswith("harbor 1")


def test_tile_dataset__marks_what_is_cut_as_difficult(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out")

    assert [line.split()[-2:] for line in lines_of(tmp_path / "out", "P1__64__0___0")] == [
        ["ship", "0"],
        ["ship", "1"],
    ]


def test_tile_dataset__leaves_out_what_is_hardly_there(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out", Tiling(patch_size=64, overlap=16, min_difficult_share=0.3))

    assert len(lines_of(tmp_path / "out", "P1__64__0___0")) == 1


def test_tile_dataset__keeps_as_a_whole_what_is_mostly_there(source: Path, tmp_path: Path) -> None:
    tiling = Tiling(patch_size=64, overlap=16, min_share=0.2)

    tile(source, tmp_path / "out", tiling)

    line = lines_of(tmp_path / "out", "P1__64__0___0")[1]
    assert line == "60.00 30.00 80.00 30.00 80.00 40.00 60.00 40.00 ship 0"


def test_tile_dataset__scales_images_and_annotations(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out", Tiling(patch_size=64, overlap=0, scales=(0.5,)))

    patch = cv2.imread(str(tmp_path / "out" / "images" / "P1__128__0___0.png"))
    assert patch is not None
    assert patch.shape == (64, 64, 3)
    assert (patch[32:] == 114).all()
    line = lines_of(tmp_path / "out", "P1__128__0___0")[0]
    assert line == "5.00 5.00 10.00 5.00 10.00 10.00 5.00 10.00 ship 0"


def test_tile_dataset__gives_a_set_that_can_be_indexed(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out" / "train")

    sources = find_data(tmp_path / "out", "rotated")
    index = build_index(sources.train, task="rotated", folder=tmp_path / "index")

    assert (len(index), index.meta.num_instances, index.meta.num_trained) == (2, 4, 2)


def test_tile_dataset__goes_on_after_an_interruption(source: Path, tmp_path: Path) -> None:
    write_image(source / "images" / "P2.png", width=30, height=30)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tile_dataset(
            source / "images",
            source / "labelTxt",
            tmp_path / "out",
            tiling=SMALL,
            progress=interrupt,
        )
    first = (tmp_path / "out.part" / "images" / "P1__64__0___0.png").stat()
    told: list[tuple[int, int]] = []
    num_patches = tile_dataset(
        source / "images",
        source / "labelTxt",
        tmp_path / "out",
        tiling=SMALL,
        progress=lambda done, total: told.append((done, total)),
    )

    assert (num_patches, told) == (3, [(2, 2)])
    assert (tmp_path / "out" / "images" / "P1__64__0___0.png").stat() == first


def test_tile_dataset__does_an_image_again_whose_name_was_half_written(
    source: Path, tmp_path: Path
) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    images, labels, out = source / "images", source / "labelTxt", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tile_dataset(images, labels, out, tiling=SMALL, progress=interrupt)
    (tmp_path / "out.part" / "done.txt").write_text("P1.png", "utf-8")
    (tmp_path / "out.part" / "images" / "P1__64__0___0.png").unlink()

    assert tile_dataset(images, labels, out, tiling=SMALL) == 2


def test_tile_dataset__begins_anew_with_other_settings(source: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "out.part" / "tiling.json", ["{}"])
    write_lines(tmp_path / "out.part" / "images" / "old.png", [""])

    assert tile(source, tmp_path / "out") == 2


def test_tile_dataset__leaves_only_images_and_labels(source: Path, tmp_path: Path) -> None:
    tile(source, tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "labelTxt"]


def test_tile_dataset__into_a_folder_that_is_there(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(ValueError, match="is there already"):
        tile(source, tmp_path / "out")


def test_tile_dataset__of_broken_annotations_names_file_and_line(
    source: Path, tmp_path: Path
) -> None:
    write_lines(source / "labelTxt" / "P1.txt", ["1 2 3 4 ship 0"])

    with pytest.raises(BrokenData, match=r"P1\.txt: line 1: needs 8 coordinates"):
        tile(source, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_tile_dataset__of_annotations_without_an_image(source: Path, tmp_path: Path) -> None:
    write_lines(source / "labelTxt" / "P9.txt", [])

    with pytest.raises(BrokenData, match=r"P9\.txt: holds annotations, but there is no image"):
        tile(source, tmp_path / "out")


def test_tile_dataset__of_no_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()

    with pytest.raises(BrokenData, match="there is no image in this folder"):
        tile_dataset(tmp_path / "images", tmp_path / "labelTxt", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings_", "what"),
    [
        ({"overlap": 1024}, "cannot overlap by 1024"),
        ({"scales": ()}, "scales must lie between"),
        ({"scales": (0.0,)}, "scales must lie between"),
        ({"scales": (1.0, 1.0)}, "give the same patches"),
        ({"min_share": 0.05}, "shares must lie between"),
    ],
)
def test_tiling__refuses_settings_that_make_no_sense(
    settings_: dict[str, object], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        Tiling(**settings_)  # type: ignore[arg-type]
