"""`rtmdet eval` of classifiers."""

import json
import re
from pathlib import Path

import pytest
import torch

from model.classifier import build_classifier
from model.config import CLASSIFIERS
from tests.data_sets import write_image
from tests.eval_command import Run, eval_command, one_line
from training.classification.saving import save_classifier
from training.config_json import to_json
from training.overrides import apply_overrides
from training.recipes import recipe


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return eval_command(capsys, monkeypatch, tmp_path)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A classifier of random weights that takes everything for a dog."""
    torch.manual_seed(0)
    network = build_classifier(CLASSIFIERS["cspnext-tiny"], 2)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([0.0, 1.0]))
    save_classifier(network, tmp_path / "best.pth", classes=("cat", "dog"))
    return tmp_path / "best.pth"


def test_eval__classifiers_have_top_1_and_top_5(run: Run, classifier: Path, tmp_path: Path):
    for number, name in enumerate(("cat", "dog", "dog", "emu")):
        write_image(tmp_path / "set" / "val" / name / f"{number}.png", seed=number)
    options = ("--data", tmp_path / "set", "--input-size", 32)
    result = run(classifier, *options, "--json")

    assert result.exit_code == 0, result.stderr
    assert result.json["metrics"] == pytest.approx({"top1": 2 / 3, "top5": 1.0})
    assert result.json["per_class"]["cat"]["top1"] == 0
    assert "does not know emu" in result.stderr
    table = run(classifier, *options).stdout
    assert re.search(r"^all +3 +0\.6667 +1\.0000$", table, re.MULTILINE)


def test_eval__reports_on_classifiers(run: Run, classifier: Path, tmp_path: Path):
    for number, name in enumerate(("cat", "dog", "dog")):
        write_image(tmp_path / "set" / "val" / name / f"{number}.png", seed=number)
    (tmp_path / "set" / "val" / "dog" / "1.png").write_bytes(b"no image")
    options = ("--data", tmp_path / "set", "--input-size", 32, "--skip-unreadable")
    result = run(classifier, *options, "--report", "report.html")

    assert result.exit_code == 0, result.stderr
    page = Path("report.html").read_text("utf-8")
    assert "best on set" in page
    assert "<b>cat</b> taken for <b>dog</b>: once, of 1 images" in page
    assert "is <b>cat</b>, taken for <b>dog</b> (0.73)" in page
    assert "1 image could not be read and is left out" in page
    assert page.count("<img ") == 1


def test_eval__a_classifier_of_a_run_sees_inputs_of_the_runs_size(
    run: Run, classifier: Path, tmp_path: Path
):
    config = to_json(apply_overrides(recipe("cspnext-tiny"), ["model.input_size=64x32"]))
    content = json.dumps({"config": config, "identity": {}})
    (tmp_path / "config.json").write_text(content, "utf-8")
    write_image(tmp_path / "set" / "val" / "cat" / "1.png")

    measured = run(tmp_path, "--data", "set", "--json").json
    assert measured["input_size"] == [64, 32]
    assert measured["model"]["name"] == tmp_path.name
    options = ("--data", "set", "--json", "--input-size", 96)
    assert run(classifier, *options).json["input_size"] == [96, 96]


def test_eval__refuses_of_classifiers_what_they_have_not(
    run: Run, classifier: Path, tmp_path: Path
):
    for number, name in enumerate(("cow", "hen")):
        write_image(tmp_path / "set" / "val" / name / f"{number}.png")
    options = ("--data", tmp_path / "set", "--input-size", 32)

    assert "no folder has the name" in one_line(run(classifier, *options))
    assert "no folder has the name" in one_line(run(classifier, *options, "--report", "a.html"))
    assert not Path("a.html").exists()
    for given in (("--tile", 256), ("--detections", "a.json"), ("--settings", "serving")):
        assert "concerns detectors" in one_line(run(classifier, *options, *given))
    assert "cspnext-tiny, not cspnext-s" in one_line(
        run(classifier, *options, "--model", "cspnext-s")
    )
    assert "no folder train" in one_line(run(classifier, *options, "--split", "train"))
    assert "no such folder" in one_line(run(classifier, "--data", tmp_path / "none"))
