"""The command that cuts aerial images into patches."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.data_sets import coco_content, index_of, write_coco, write_dota, write_image
from training.__main__ import app
from training.data.formats import tiling

SHIP = "10 10 20 10 20 20 10 20 ship 0"
SMALL = ("--patch-size", "32", "--overlap", "8")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "tile", *map(str, arguments)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An image to train on and one to evaluate on, 100x64 pixels, with a ship each."""
    folder = tmp_path / "whole"
    for split in ("train", "val"):
        write_dota(folder, [SHIP], split=split)
        write_image(folder / split / "images" / "P1.png", width=100, height=64)
    return folder


def test_tile__writes_a_set_that_can_be_trained_on(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "cut", *SMALL)

    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "cut"))
    index = index_of(tmp_path / "cut", "rotated")
    assert (index.classes, index.image_size(0)) == (("ship",), (32, 32))


def test_tile__cuts_both_splits_and_counts_them(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "cut", *SMALL, "--json")

    # 4 windows of 32 pixels with a step of 24 across 100, 3 down 64.
    patches = {"train": 12, "val": 12}
    assert json.loads(result.stdout) == {"out": str(tmp_path / "cut"), "patches": patches}


def test_tile__takes_several_scales(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "cut", *SMALL, "--scales", "0.5,1")

    sides = {path.name.split("__")[1] for path in (tmp_path / "cut/train/images").iterdir()}
    assert sides == {"64", "32"}


def test_tile__tells_how_far_it_is(source: Path, tmp_path: Path) -> None:
    lines = run(source, tmp_path / "cut", *SMALL).stderr.splitlines()

    assert lines == ["train: 1 of 1 images", "val: 1 of 1 images"]


def test_tile__leaves_nothing_beside_the_patches(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "cut", *SMALL)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["train", "val"]


def test_tile__goes_on_after_an_interruption(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiling.tile_dataset

    def interrupted(images: Path, *arguments: object, **options: object) -> int:
        if "val" in images.parts:
            raise OSError("the disk is full")
        return whole(images, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(tiling, "tile_dataset", interrupted)
        assert run(source, tmp_path / "cut", *SMALL).exit_code == 1
        assert not (tmp_path / "cut").exists()

    again = run(source, tmp_path / "cut", *SMALL)

    assert again.stderr.splitlines() == ["val: 1 of 1 images"]
    assert (tmp_path / "cut" / "train").is_dir()


def test_tile__begins_anew_when_something_else_is_asked(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.part" / "train").mkdir(parents=True)
    (tmp_path / "cut.part" / "asked.json").write_text("{}")

    again = run(source, tmp_path / "cut", *SMALL)

    assert again.stderr.splitlines() == ["train: 1 of 1 images", "val: 1 of 1 images"]


def test_tile__begins_anew_when_labels_were_corrected_meanwhile(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise OSError("the disk is full")

    run(source, tmp_path / "whole_run", *SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(tiling, "tile_dataset", interrupted)
        assert run(source, tmp_path / "cut", *SMALL).exit_code == 1
    (tmp_path / "whole_run").rename(tmp_path / "cut.part" / "train.old")
    (tmp_path / "cut.part" / "train.old" / "train").rename(tmp_path / "cut.part" / "train")
    (source / "train" / "labelTxt" / "P1.txt").write_text(SHIP.replace("ship", "plane"))

    again = run(source, tmp_path / "cut", *SMALL)

    assert again.stderr.splitlines() == ["train: 1 of 1 images", "val: 1 of 1 images"]
    assert "plane" in (tmp_path / "cut/train/labelTxt/P1__32__0___0.txt").read_text()


def mistake(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr


def test_tile__refuses_a_folder_that_is_there(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()

    assert "is there already; remove it" in mistake(run(source, tmp_path / "cut"))


def test_tile__refuses_other_layouts(tmp_path: Path) -> None:
    write_coco(tmp_path / "set", coco_content())

    assert "COCO's layout; only DOTA's" in mistake(run(tmp_path / "set", tmp_path / "cut"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scales", "1,a"), "scales '1,a': factors are written"),
        (("--scales", "nan"), "scales must lie between 0 and 8"),
        (("--patch-size", "100"), "cannot overlap by 200"),
    ],
)
def test_tile__refuses_impossible_tilings(
    source: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in mistake(run(source, tmp_path / "cut", *options))
    assert not (tmp_path / "cut.part").exists()


def test_tile__lists_what_must_be_mended(source: Path, tmp_path: Path) -> None:
    (source / "train/labelTxt/P1.txt").write_text("1 2 3\n", "utf-8")

    assert "P1.txt: line 1: needs 8 coordinates" in mistake(run(source, tmp_path / "cut"))


def test_tile__help_shows_an_example() -> None:
    assert "Example: rtmdet data tile" in run("--help").stdout
