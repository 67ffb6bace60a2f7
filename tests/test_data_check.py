"""The doctor for data sets: finds what is planted, nothing where nothing is, and agrees with
training about what is refused."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from model.config import Task
from tests.planted_annotation_faults import ANNOTATION_FAULTS
from tests.planted_image_faults import IMAGE_FAULTS
from tests.planting import Content, Fault, changed, with_line
from training.__main__ import app
from training.data.checking.check import Checked, Request, check_data
from training.data.checking.images import Reading
from training.data.checking.kinds import KINDS
from training.data.indexing.detection_index import DetectionIndex
from training.data.synthetic.data_set import ShapesLayout, ShapesPlan, write_shapes
from training.data.synthetic.outlines import SHAPE_NAMES
from training.datasets import index_data
from training.recipes import recipe

FAULTS = ANNOTATION_FAULTS | IMAGE_FAULTS
RECIPES: dict[Task, str] = {
    "detect": "rtmdet-tiny",
    "instance": "rtmdet-ins-tiny",
    "rotated": "rtmdet-r-tiny",
}
CLEAN: dict[ShapesLayout, tuple[Task, ...]] = {
    "coco": ("detect", "instance", "rotated"),
    "dota": ("detect", "rotated"),
    "yolo": ("detect",),
    "yolo-polygons": ("detect", "instance", "rotated"),
    "yolo-oriented": ("detect", "rotated"),
}


@pytest.fixture(scope="session")
def clean_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean set in each layout, in a folder of that name."""
    folder = tmp_path_factory.mktemp("clean")
    for layout in CLEAN:
        plan = ShapesPlan(num_train=48, num_val=24, size=96, seed=5, layout=layout)
        write_shapes(folder / layout, plan)
    return folder


def checked(
    folder: Path, task: Task | None = None, *, decodes: bool = True, max_images: int | None = None
) -> Checked:
    return check_data(Request(folder, task), Reading(2, decodes, max_images), lambda *_: None)


def kinds_in(outcome: Checked) -> set[str]:
    return {each.kind for each in outcome.report.findings}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


@pytest.mark.parametrize(
    ("layout", "task"), [(layout, task) for layout, tasks in CLEAN.items() for task in tasks]
)
def test_check__finds_nothing_in_clean_sets(
    clean_sets: Path, layout: ShapesLayout, task: Task
) -> None:
    assert checked(clean_sets / layout, task).report.findings == ()


@pytest.fixture
def planted(request: pytest.FixtureRequest, clean_sets: Path, tmp_path: Path) -> tuple[Fault, Path]:
    """A fault, and a set that has it and no other."""
    one = FAULTS[request.param]
    shutil.copytree(clean_sets / one.layout, tmp_path / "set")
    one.plant(tmp_path / "set")
    return one, tmp_path / "set"


@pytest.mark.parametrize("planted", FAULTS, indirect=True)
def test_check__finds_what_is_planted(planted: tuple[Fault, Path]) -> None:
    one, folder = planted

    outcome = checked(folder, one.task)

    assert kinds_in(outcome) - one.also == {one.kind}
    (finding,) = (
        each for each in outcome.report.findings if (each.kind, each.split) == (one.kind, one.split)
    )
    # By name: the file, or the record inside it.
    places = [(place.record, place.file) for place in finding.places]
    assert any(one.named == record or file.endswith(one.named) for record, file in places)


@pytest.mark.parametrize("planted", FAULTS, indirect=True)
def test_check__refuses_exactly_what_training_refuses(
    planted: tuple[Fault, Path], tmp_path: Path
) -> None:
    one, folder = planted
    try:
        index_data(recipe(RECIPES[one.task]), folder, tmp_path / "index")
        is_refused = False
    except ValueError:
        is_refused = True

    code = run(folder, "--task", one.task, "--no-decode", "--json").exit_code

    assert code == (1 if is_refused else 0)
    assert is_refused or KINDS[one.kind].severity != "error" or one.kind.endswith("-image")


def test_faults__are_of_nearly_every_kind() -> None:
    assert not ANNOTATION_FAULTS.keys() & IMAGE_FAULTS.keys()
    # The first below; the second needs a file whose head and pixels differ, as WebP's may.
    assert set(KINDS) - {one.kind for one in FAULTS.values()} == {
        "class-imbalance",
        "pixels-of-another-size",
    }


def test_check__finds_classes_that_are_far_rarer_than_others(
    clean_sets: Path, tmp_path: Path
) -> None:
    shutil.copytree(clean_sets / "yolo", tmp_path / "set")
    places = [(0.05 + number % 15 * 0.06, 0.05 + number // 15 * 0.06) for number in range(225)]
    lines = "".join(f"0 {x:.3f} {y:.3f} .05 .05\n" for x, y in places)
    for number in range(40, 49):
        file = tmp_path / f"set/labels/train/{number:06d}.txt"
        file.write_text(lines, "utf-8")
    for number in range(1, 40):
        file = tmp_path / f"set/labels/train/{number:06d}.txt"
        kept = [line for line in file.read_text("utf-8").splitlines() if line[0] != "5"]
        file.write_text("\n".join([*kept, *(["5 .5 .5 .4 .4"] * (number <= 12))]), "utf-8")

    findings = {each.kind: each for each in checked(tmp_path / "set", "detect").report.findings}

    rare = {each.record for each in findings["class-imbalance"].places}
    assert f"class '{SHAPE_NAMES[5]}'" in rare
    assert f"class '{SHAPE_NAMES[0]}'" not in rare


def test_check__stops_where_training_replaces_too_many(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "coco", tmp_path / "set")
    with_cut_off_images(tmp_path / "set", 21)

    result = run(tmp_path / "set")

    assert result.exit_code == 1
    assert "training would STOP: 21 images of train cannot be decoded" in result.stdout


def with_cut_off_images(folder: Path, num_images: int, split: str = "train") -> Path:
    for number in range(1, num_images + 1):
        file = folder / split / f"{number:06d}.jpg"
        file.write_bytes(file.read_bytes()[:-100])
    return folder


@pytest.mark.parametrize(
    ("num_train", "num_val", "said"),
    [
        (1, 0, "1 in train would be replaced by others"),
        (2, 1, "2 in train would be replaced by others and 1 in val would be left out"),
        (0, 21, "21 in val are too many: NOTHING would be evaluated"),
    ],
)
def test_command__last_line_says_what_training_does_without(
    clean_sets: Path, tmp_path: Path, num_train: int, num_val: int, said: str
) -> None:
    shutil.copytree(clean_sets / "coco", tmp_path / "set")
    with_cut_off_images(tmp_path / "set", num_train)
    with_cut_off_images(tmp_path / "set", num_val, "val")

    result = run(tmp_path / "set")

    assert result.exit_code == 0
    begins = "training would not be refused; of images that cannot be decoded, "
    assert result.stdout.splitlines()[-1] == f"{begins}{said} (1 kind of error)"


def test_check__counts_what_training_counts(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "yolo", tmp_path / "set")
    FAULTS["short_sided_image"].plant(tmp_path / "set")
    shutil.copy(
        tmp_path / "set/images/train/000003.png", tmp_path / "set/images/val/000003-short.png"
    )
    shutil.copy(
        tmp_path / "set/labels/train/000003.txt", tmp_path / "set/labels/val/000003-short.txt"
    )
    index_data(recipe(RECIPES["detect"]), tmp_path / "set", tmp_path / "index")
    indices = [DetectionIndex.open(tmp_path / "index" / split) for split in ("train", "val")]

    report = checked(tmp_path / "set", "detect").report

    assert [each.num_trained for each in report.splits] == [
        index.meta.num_trained for index in indices
    ]
    # What is evaluated on is kept whole.
    short = [each.split for each in report.findings if each.kind == "short-sided-image"]
    assert short == ["train"]


def test_check__images_of_a_refused_split_are_not_unlisted(
    clean_sets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(clean_sets / "coco", folder)
    (folder / "images").mkdir()
    for split in ("train", "val"):
        for file in (folder / split).iterdir():
            file.rename(folder / "images" / f"{split}-{file.name}")
        (folder / split).rmdir()
        changed(folder, partial(with_split_in_names, split), split)
    assert kinds_in(checked(folder, "detect")) == set()

    def break_one(content: Content) -> None:
        content["images"][2]["width"] = 50

    changed(folder, break_one, "val")

    assert kinds_in(checked(folder, "detect")) == {"wrong-size"}


def with_split_in_names(split: str, content: Content) -> None:
    for image in content["images"]:
        image["file_name"] = f"{split}-{image['file_name']}"


def test_command__waits_for_no_pipe_and_follows_no_circle(clean_sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(clean_sets / "yolo", folder)
    for file in (folder / "labels/train/000003.txt", folder / "images/val/000004.jpg"):
        file.unlink()
        os.mkfifo(file)

    result = run(folder, "--html", tmp_path / "page.html")

    assert result.exit_code == 1
    assert "labels/train/000003.txt: is no file" in result.stdout
    assert "images/val/000004.jpg: the image file is no file" in result.stdout

    shutil.copytree(clean_sets / "coco", tmp_path / "links")
    (tmp_path / "links/train/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "links/train/folder.jpg").mkdir()
    assert kinds_in(checked(tmp_path / "links", "detect")) == set()


def test_check__counts_no_images_that_training_leaves_out(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "coco", tmp_path / "set")
    with_cut_off_images(tmp_path / "set", 21)

    def empty_one(content: Content) -> None:
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 21]

    changed(tmp_path / "set", empty_one)
    detect, finetune = (
        check_data(
            Request(tmp_path / "set", recipe=name), Reading(2, decodes=True), lambda *_: None
        ).report
        for name in ("rtmdet-tiny", "rtmdet-tiny-finetune")
    )

    assert (detect.num_replaced, detect.stops) == (20, False)
    assert (finetune.num_replaced, finetune.stops) == (21, True)


def test_check__guesses_the_task(clean_sets: Path) -> None:
    tasks = {layout: checked(clean_sets / layout, decodes=False).report.task for layout in CLEAN}

    assert tasks == {
        "coco": "instance",
        "dota": "rotated",
        "yolo": "detect",
        "yolo-polygons": "instance",
        "yolo-oriented": "rotated",
    }


def test_check__decodes_no_more_than_asked(clean_sets: Path) -> None:
    assert checked(clean_sets / "coco", max_images=5).report.num_decoded == 10


def test_check__finds_copies_without_decoding(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "coco", tmp_path / "set")
    FAULTS["leaked_image"].plant(tmp_path / "set")

    assert kinds_in(checked(tmp_path / "set", "detect", decodes=False)) == {"leaked-image"}


def test_command__json_has_the_documented_form(clean_sets: Path) -> None:
    outcome = json.loads(run(clean_sets / "coco", "--json", "--recipe", "rtmdet-s").stdout)

    assert outcome["schema"] == "rtmdet-data-check-1"
    assert (outcome["task"], outcome["refused"], outcome["findings"]) == ("detect", False, [])
    assert outcome["input_size"] == [640, 640]
    assert outcome["splits"][0]["num_images"] == 48
    assert (
        sum(outcome["splits"][0]["instances_by_class"].values())
        == (outcome["splits"][0]["num_trained"])
    )


def test_command__prints_where_letters_are_missing(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "yolo", tmp_path / "set")
    with_line(tmp_path / "set/data.yaml", "  6: 船")
    runner = CliRunner(charset="latin-1")

    result = runner.invoke(app, ["data", "check", str(tmp_path / "set")])

    assert result.exit_code == 0
    assert "class without an instance in train" in result.stdout
    assert "'?'" in result.stdout


def test_command__is_strict_on_request(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "coco", tmp_path / "set")
    FAULTS["truncated_image"].plant(tmp_path / "set")

    assert run(tmp_path / "set").exit_code == 0
    assert run(tmp_path / "set", "--strict").exit_code == 1
    assert run(clean_sets / "coco", "--strict").exit_code == 0


def test_command__table_names_places_and_what_to_do(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "coco", tmp_path / "set")
    FAULTS["nan"].plant(tmp_path / "set")

    result = run(tmp_path / "set", "--task", "detect")

    assert result.exit_code == 1
    assert "annotations/instances_train.json, annotation 5: the box" in result.stdout
    assert KINDS["not-finite"].advice in result.stdout
    assert "training would be REFUSED (1 kind of error)" in result.stdout


def test_command__page_needs_no_network_and_escapes_names(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "dota", tmp_path / "set")
    file = tmp_path / "set/train/labelTxt/000003.txt"
    file.write_text("10 10 60 10 30 14 10 60 <script>alert(1)</script> 0\n", "utf-8")

    result = run(tmp_path / "set", "--html", tmp_path / "out" / "page.html")

    page = (tmp_path / "out" / "page.html").read_text("utf-8")
    assert result.exit_code == 0
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    # 12 samples of each split, and the polygon that is no rectangle.
    assert page.count("data:image/jpeg;base64,") == 25
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["page.html"]


def test_command__tells_names_that_are_no_text(clean_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_sets / "yolo", tmp_path / "set")
    odd = os.fsencode(tmp_path / "set/images/train") + b"/\xff\x1b[31m.jpg"
    os.rename(tmp_path / "set/images/train/000003.jpg", odd)
    (tmp_path / "set/labels/train/000003.txt").unlink()

    result = run(tmp_path / "set", "--html", tmp_path / "page.html")
    outcome = json.loads(run(tmp_path / "set", "--json").stdout)

    assert result.exit_code == 0
    assert "\\udcff\\x1b[31m.jpg" in result.stdout
    (finding,) = outcome["findings"]
    assert finding["places"][0]["file"].endswith("\\udcff\\x1b[31m.jpg")
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "there is no such folder"),
        ((".",), "no data set is recognised"),
        (("coco", "--recipe", "rtmdet-huge"), "unknown recipe 'rtmdet-huge'"),
        (("coco", "--recipe", "cspnext-s"), "trains a classifier"),
        (("coco", "--recipe", "rtmdet-s", "--task", "rotated"), "is of the task 'detect'"),
        (("coco", "--input-size", "100"), "multiples of 32"),
        (("dota", "--task", "instance"), "has no outlines"),
        (("coco", "--html", "."), "is a folder"),
        (("coco", "--html", "coco/shapes.json/page.html"), "shapes.json cannot be written to"),
    ],
)
def test_command__refuses_mistakes(
    clean_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(clean_sets)

    result = run(*arguments)

    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(("fault", "exit_code"), [(None, 2), ("unknown-category", 1)])
def test_command__a_page_that_cannot_be_written_changes_no_verdict(
    clean_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str | None,
    exit_code: int,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.data.checking.page.write_page", full)
    shutil.copytree(clean_sets / "coco", tmp_path / "set")
    if fault is not None:
        next(each for each in FAULTS.values() if each.kind == fault).plant(tmp_path / "set")

    result = run(tmp_path / "set", "--html", tmp_path / "page.html")

    assert result.exit_code == exit_code
    assert "the page cannot be written: No space left on device" in result.stderr
    assert "training would" in result.stdout


def test_command__help_shows_an_example() -> None:
    assert "Example: rtmdet data check" in run("--help").stdout
