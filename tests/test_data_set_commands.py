"""The commands that make data sets: `rtmdet data convert` and `rtmdet data shapes`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.data_sets import coco_content, write_coco, write_dota, write_lines
from training.__main__ import app
from training.data.formats.layouts import find_data
from training.data.writing.forms import CROWDS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "set"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr


def test_convert_command__says_what_was_lost(source: Path, tmp_path: Path) -> None:
    write_coco(source, coco_content())
    result = run("convert", source, tmp_path / "out", "--to", "yolo")

    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "out"))
    assert f"1 x {CROWDS}" in result.stderr.splitlines()


def test_convert_command__json(source: Path, tmp_path: Path) -> None:
    write_coco(source, coco_content())
    result = run("convert", source, tmp_path / "out", "--to", "yolo", "--json")

    assert json.loads(result.stdout) == {
        "out": str(tmp_path / "out"),
        "task": "instance",
        "images": {"train": 2},
        "remarks": {CROWDS: 1},
    }


def test_convert_command__refuses_broken_data(source: Path, tmp_path: Path) -> None:
    write_dota(source, ["1 2 3", "1 1 9 1 9 6 1 6 ship 9"])
    said = refused(run("convert", source, tmp_path / "out", "--to", "yolo"))

    assert "2 problems" in said
    assert "P1.txt: line 1: needs 8 coordinates" in said
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_convert_command__refuses_names_that_are_none_of_images(source: Path) -> None:
    content = coco_content()
    content["images"][0]["file_name"] = "a"
    write_coco(source, content)
    (source / "train/a.png").rename(source / "train/a")

    said = refused(run("convert", source, source.parent / "out", "--to", "yolo"))
    assert "its name must end as those of images do" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "voc"), "unknown format 'voc'; there are: coco, dota, yolo"),
        (("--to", "yolo", "--task", "classify"), "unknown task 'classify'"),
        (("--to", "dota", "--task", "instance"), "DOTA holds rotated boxes"),
    ],
)
def test_convert_command__refuses_what_there_is_not(
    source: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    write_coco(source, coco_content())
    message = refused(run("convert", source, tmp_path / "out", *arguments))

    assert said in message
    assert message.count("\n") == 1


def test_convert_command__refuses_a_folder_that_holds_something(
    source: Path, tmp_path: Path
) -> None:
    write_coco(source, coco_content())
    write_lines(tmp_path / "out/mine.txt", ["mine"])

    said = refused(run("convert", source, tmp_path / "out", "--to", "yolo"))
    assert "holds something already" in said
    assert (tmp_path / "out/mine.txt").read_text() == "mine\n"


def test_convert_command__refuses_a_source_that_is_not_there(tmp_path: Path) -> None:
    said = refused(run("convert", tmp_path / "lost", tmp_path / "out", "--to", "yolo"))

    assert "there is no such folder" in said
    assert list(tmp_path.iterdir()) == []


def test_shapes_command__writes_a_set_for_every_task(tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    result = run("shapes", out, "--train", 2, "--val", 1, "--size", 64)

    assert (result.exit_code, result.stdout.strip()) == (0, str(out))
    assert result.stderr.splitlines()[-1] == "writing: 3 of 3 images"
    assert (find_data(out, "detect").train.format, find_data(out, "rotated").train.format) == (
        "coco",
        "dota",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--train", 0, "--val", 0), "1 to 1,000,000 images"),
        (("--train", -3), "1 to 1,000,000 images"),
        (("--size", 9), "32 to 2048 pixels a side, not 9"),
        (("--seed", -1), "seeds are whole numbers"),
        (("--layout", "voc"), "unknown layout 'voc'; there are: all, coco, dota"),
    ],
)
def test_shapes_command__refuses_what_makes_no_set(
    tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    message = refused(run("shapes", tmp_path / "out", *options))

    assert said in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_shapes_command__refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    write_lines(tmp_path / "out/mine.txt", ["mine"])

    assert "holds something already" in refused(run("shapes", tmp_path / "out", "--train", 1))


@pytest.mark.parametrize("command", ["shapes", "convert"])
def test_data_command__help_shows_an_example(command: str) -> None:
    assert f"Example: rtmdet data {command}" in run(command, "--help").stdout
