"""`rtmdet eval` of detectors: the same figures from weights and from exported models."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.__main__ import app as models_app
from model.checkpoints.checkpoint_files import load_checkpoint, save_checkpoint
from model.checkpoints.importing import Wanted, open_checkpoint
from model.export import export_model
from model.manifest import MANIFEST_FILE, Thresholds, read_model_manifest
from model.repository import ModelRepository
from service.detection import DetectOptions
from service.model_options import postprocess_settings
from tests.conftest import PROJECT
from tests.eval_command import Run, eval_command, one_line
from tests.known_models import NUM_IMAGES, SIDE, Known, known_once
from training.evaluation.evaluator import EvaluationSettings


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return eval_command(capsys, monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_once("instance", tmp_path_factory)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_once("rotated", tmp_path_factory)


def test_eval__finds_what_the_network_finds_from_weights_and_exported(run: Run, instance: Known):
    options = ("--data", instance.data, "--json", "--precision", "float32", "--detections")
    in_torch = run(instance.checkpoint, *options, "torch.json")
    exported = run("instance", *options, "ov.json", "--repository", instance.repository)

    assert (in_torch.exit_code, exported.exit_code) == (0, 0), in_torch.stderr + exported.stderr
    for result in (in_torch, exported):
        metrics = result.json["metrics"]
        # What is annotated was found by this very network, with as high scores as there are.
        assert metrics["box_ap50"] > 0.6
        assert metrics["mask_ap50"] > 0.6
    for name, value in in_torch.json["metrics"].items():
        assert exported.json["metrics"][name] == pytest.approx(value, abs=0.01)
    ours, theirs = (json.loads(Path(f"{name}.json").read_text()) for name in ("torch", "ov"))
    assert {each["category_id"] for each in ours} == {6, 7}
    assert {each["image_id"] for each in ours} == set(range(100, 100 + NUM_IMAGES))
    assert len(ours) == pytest.approx(len(theirs), abs=2)
    for one, other in zip(ours[:4], theirs[:4], strict=True):
        assert other["bbox"] == pytest.approx(one["bbox"], abs=0.01)
        assert other["score"] == pytest.approx(one["score"], abs=1e-4)


def test_eval__rotated_boxes_agree_too_and_become_dotas_texts(run: Run, rotated: Known):
    options = ("--data", rotated.data, "--json", "--precision", "float32")
    in_torch = run(rotated.checkpoint, *options)
    place = rotated.repository / "rotated" / "1"
    exported = run(place, *options, "--runtime", "onnxruntime", "--detections", "task1.zip")

    assert (in_torch.exit_code, exported.exit_code) == (0, 0), in_torch.stderr + exported.stderr
    assert in_torch.json["metrics"]["rotated_ap50"] > 0.9
    for name, value in in_torch.json["metrics"].items():
        assert exported.json["metrics"][name] == pytest.approx(value, abs=0.01)
    assert exported.json["runtime"].startswith("ONNX Runtime")
    with zipfile.ZipFile("task1.zip") as archive:
        assert sorted(archive.namelist()) == ["Task1_cat.txt", "Task1_dog.txt"]
        name, score, *corners = archive.read("Task1_cat.txt").decode().splitlines()[0].split()
    assert name in {str(position) for position in range(NUM_IMAGES)}
    assert 0.05 < float(score) < 1
    assert len(corners) == 8


def test_eval__says_what_was_measured_with_what(run: Run, instance: Known):
    result = run("instance:1", "--data", instance.data, "--repository", instance.repository)

    assert result.exit_code == 0
    graph = instance.repository / "instance" / "1" / "model.onnx"
    manifest = read_model_manifest(instance.repository / "instance" / MANIFEST_FILE)
    digest = manifest.versions[1].files["model.onnx"]
    for fact in (
        "instance version 1 (rtmdet-ins-nano, instance)",
        f"{graph}, sha256 {digest[:12]}",
        "OpenVINO",
        "published: score_threshold 0.05",
        f"{instance.data} (coco, val)",
        f"{NUM_IMAGES} images, ",
    ):
        assert fact in result.stdout
    assert "the model does not know emu" in result.stderr
    assert re.search(r"^AP50 +\d\.\d{4} +\d\.\d{4}$", result.stdout, re.MULTILINE)
    assert re.search(r"^cat +\d+ +\d+( +\d\.\d{4}){6}$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("where", ["checkpoint", "exported"])
def test_eval__serving_settings_are_those_of_the_manifest(run: Run, rotated: Known, where: str):
    what = rotated.checkpoint if where == "checkpoint" else "rotated"
    options = ("--data", rotated.data, "--repository", rotated.repository, "--json")
    result = run(what, *options, "--settings", "serving")

    settings = result.json["settings"]
    assert settings["name"] == "serving"
    assert settings["score_threshold"] == 0.3
    assert settings["clip_to_image"] is True
    assert "candidates_per_level" not in settings
    published = run(what, *options)
    counts = [
        sum(each["detections"] for each in one.json["per_class"].values())
        for one in (result, published)
    ]
    assert 0 < counts[0] < counts[1]


def test_settings__of_serving_are_what_a_request_gets_that_asks_for_nothing(rotated: Known):
    thresholds = Thresholds(score=0.4, iou=0.2, max_detections=7)
    source = ModelRepository(rotated.repository).open("rotated")
    manifest = source.manifest.model_copy(update={"thresholds": thresholds})

    ours = EvaluationSettings(
        task="rotated", input_size=(SIDE, SIDE), postprocess="serving", thresholds=thresholds
    )
    served = postprocess_settings(replace(source, manifest=manifest), DetectOptions())
    assert ours.postprocess_settings == served


def test_eval__weights_may_have_any_file_name(run: Run, rotated: Known, tmp_path: Path):
    odd = tmp_path / "epoch 12 (copy).safetensors"
    odd.write_bytes(rotated.checkpoint.read_bytes())
    odd.with_suffix(".json").write_bytes(rotated.checkpoint.with_suffix(".json").read_bytes())

    assert run(odd, "--data", rotated.data, "--json").exit_code == 0


def test_eval__names_every_problem_of_the_data(run: Run, rotated: Known, tmp_path: Path):
    data = rotated.copy_data(tmp_path / "broken")
    for stem in ("0", "1"):
        (data / "val" / "labelTxt" / f"{stem}.txt").write_text("1 2 3 cat 0\n")

    result = run("rotated", "--data", data, "--repository", rotated.repository)

    assert result.exit_code == 2
    assert all(f"{stem}.txt" in result.stderr for stem in ("0", "1"))


def test_eval__records_in_the_manifest_and_replaces_what_was_measured_alike(
    run: Run, rotated: Known
):
    path = rotated.repository / "rotated" / MANIFEST_FILE
    options = ("--data", rotated.data, "--repository", rotated.repository, "--record", "--json")
    options += ("--runtime", "onnxruntime")
    before = path.read_text()
    try:
        first = run("rotated", *options)
        run("rotated", *options)
        run("rotated", *options, "--settings", "serving")

        version = read_model_manifest(path).versions[1]
        assert [each.settings for each in version.evaluations] == ["published", "serving"]
        recorded = version.evaluations[0]
        assert recorded.metrics == pytest.approx(first.json["metrics"], abs=1e-6)
        assert (recorded.dataset, recorded.split, recorded.num_images) == ("data", "val", 5)
        assert recorded.runtime == first.json["runtime"]
        listing = ["models", "list", "--json", "--repository", str(rotated.repository)]
        (shown,) = json.loads(CliRunner().invoke(models_app, listing).stdout)["models"]
        assert shown["evaluations"][0]["metrics"] == recorded.metrics
    finally:
        path.write_text(before)


def test_eval__takes_a_runs_folder_and_a_json_file(run: Run, instance: Known, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    file = instance.data / "annotations" / "instances_val.json"
    assert "no weights yet" in one_line(run(folder, "--data", file))
    network, manifest = load_checkpoint(instance.checkpoint)
    save_checkpoint(
        network,
        folder / "best.safetensors",
        classes=manifest.classes,
        source=manifest.source,
        input_size=manifest.input_size,
    )

    result = run(folder, "--data", file, "--json", "--max-images", 2)
    assert result.exit_code == 0
    assert result.json["model"]["file"] == str(folder / "best.safetensors")
    assert result.json["data"]["images"] == 2


def test_eval__large_images_are_seen_in_patches_and_merged(run: Run, rotated: Known):
    options = ("--data", rotated.data, "--json", "--tile", SIDE, "--overlap", 32)
    result = run(rotated.checkpoint, *options, "--detections", "patches.zip")

    assert result.exit_code == 0, result.stderr
    # Of 80 x 64 pixels, in two patches each.
    assert result.json["data"]["images"] == NUM_IMAGES
    assert result.json["data"]["patches"] == {"side": SIDE, "overlap": 32}
    with zipfile.ZipFile("patches.zip") as archive:
        lines = archive.read("Task1_cat.txt").decode().splitlines()
    assert max(float(line.split()[2]) for line in lines) > SIDE


def test_eval__writes_a_report(run: Run, instance: Known):
    result = run(instance.checkpoint, "--data", instance.data, "--report", "report.html")

    assert result.exit_code == 0, result.stderr
    assert "instance on data" in Path("report.html").read_text("utf-8")


def test_eval__writes_nothing_into_the_data(run: Run, instance: Known):
    before = sorted(instance.data.rglob("*"))
    result = run(instance.checkpoint, "--data", instance.data)

    assert result.exit_code == 0, result.stderr
    assert sorted(instance.data.rglob("*")) == before


@pytest.mark.parametrize("damage", ["no image", "cut off"])
def test_eval__an_unreadable_image_ends_it_or_is_named_and_counted(
    run: Run, instance: Known, tmp_path: Path, damage: str
):
    data = instance.copy_data(tmp_path / "spoilt")
    image = data / "val" / "2.png"
    # What is cut off states its size all the same.
    image.write_bytes(b"no image" if damage == "no image" else image.read_bytes()[:60])

    assert f"{image}: " in one_line(run(instance.checkpoint, "--data", data))

    options = ("--skip-unreadable", "--json", "--report", "report.html")
    skipped = run(instance.checkpoint, "--data", data, *options)
    assert skipped.exit_code == 0
    assert skipped.json["data"]["images"] == NUM_IMAGES - 1
    assert ["2.png" in line for line in skipped.json["unreadable"]] == [True]
    assert "1 image could not be read" in skipped.stderr
    assert "1 image could not be read and is left out" in Path("report.html").read_text("utf-8")


def test_eval__interrupted_ends_with_130(rotated: Known, tmp_path: Path):
    data, temporary = rotated.copy_data(tmp_path / "many"), tmp_path / "temporary"
    temporary.mkdir()
    for number in range(NUM_IMAGES, 60):
        for folder, suffix in (("images", ".png"), ("labelTxt", ".txt")):
            source = data / "val" / folder / f"0{suffix}"
            os.link(source, source.with_name(f"{number}{suffix}"))
    # So large that it is still running when it has told how far it is.
    slow = ("--input-size", "1024", "--batch-size", "1", "--data", str(data))
    process = subprocess.Popen(
        [sys.executable, "-m", "rtmdet", "eval", str(rotated.checkpoint), *slow],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary)},
        text=True,
    )
    assert process.stderr is not None
    told = next(line for line in process.stderr if line.startswith("evaluating"))
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130, told + rest
    assert "Traceback" not in rest
    assert not list(temporary.iterdir())


# ---------------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def person(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real weights exported: a repository with the model `person`."""
    weights = shared_folder / "real" / "rtmdet_nano_person.pth"
    opened = open_checkpoint(weights, Wanted(input_size=(320, 320)))
    repository = tmp_path_factory.mktemp("person")
    export_model(opened.network, opened.manifest, repository, name="person")
    return repository


@pytest.mark.parity
@pytest.mark.parametrize(
    "options",
    [
        ("weights", "--input-size", "320"),
        ("person", "--precision", "float32"),
        ("person", "--precision", "bf16"),
        ("person", "--runtime", "onnxruntime"),
    ],
    ids=["torch", "openvino f32", "openvino bf16", "onnxruntime"],
)
def test_eval__real_weights_reach_the_published_person_ap(
    run: Run, person: Path, shared_folder: Path, options: tuple[str, ...]
):
    what, *rest = options
    if what == "weights":
        what = str(shared_folder / "real" / "rtmdet_nano_person.pth")
    data = shared_folder / "data" / "coco-mini"
    result = run(what, "--data", data, "--repository", person, "--json", *rest)
    if result.exit_code == 2 and "bf16 is not available" in result.stderr:
        pytest.skip("this processor has no bf16")

    assert result.exit_code == 0, result.stderr
    assert result.json["data"]["images"] == 47
    assert result.json["metrics"]["box_ap"] == pytest.approx(0.4141, abs=0.0005)


def test_help__imports_neither_torch_nor_a_runtime():
    code = (
        "import sys; sys.argv = ['rtmdet', 'eval', '--help']; import rtmdet\n"
        "try: rtmdet.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'openvino', 'onnxruntime', 'onnx'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "Example: rtmdet eval" in result.stdout
    assert result.stdout.rstrip().endswith("[]")
