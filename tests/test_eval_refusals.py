"""What `rtmdet eval` refuses: in one line, and with exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.checkpoints.checkpoint_files import export_published, load_checkpoint
from service.runtime.openvino_session import OpenVINOSession
from tests.conftest import PROJECT
from tests.data_sets import coco_content, write_coco, write_dota
from tests.eval_command import Run, eval_command, one_line
from tests.known_models import CLASSES, SIDE, Known, known_once


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return eval_command(capsys, monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_once("instance", tmp_path_factory)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_once("rotated", tmp_path_factory)


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        ("rotatet", (), "did you mean 'rotated'"),
        ("rotated:7", (), "has no version 7; there are: 1"),
        ("rotated:new", (), "a version is written NAME:2"),
        ("runs/none", (), "there is no such file or folder"),
        ("none.safetensors", (), "there is no such file"),
        (".", (), "neither a run's folder nor"),
        ("rotated", ("--runtime", "tpu"), "there are torch, openvino, onnxruntime"),
        ("rotated", ("--runtime", "torch"), "give the checkpoint"),
        ("rotated", ("--runtime", "onnxruntime", "--precision", "bf16"), "float32"),
        ("rotated", ("--input-size", "64"), "concerns weights alone"),
        ("rotated", ("--device", "cpu"), "concerns weights alone"),
        ("rotated", ("--detections", "found.json"), "NAME.zip"),
        ("rotated", ("--detections", "missing/found.zip"), "there is no folder missing"),
        ("rotated", ("--report", "report.pdf"), "NAME.html"),
        ("rotated", ("--report", "missing/report.html"), "there is no folder missing"),
        ("rotated", ("--split", "train"), "there is no split 'train'"),
        ("rotated", ("--tile", "64", "--overlap", "64"), "must share less"),
        ("rotated", ("--overlap", "64"), "say with --tile how large"),
    ],
)
def test_eval__refuses_in_one_line(run: Run, rotated: Known, what: str, options, told: str):
    common = ("--data", rotated.data, "--repository", rotated.repository)

    assert told in one_line(run(what, *common, *options))


def test_eval__refuses_a_precision_that_the_processor_lacks(
    run: Run, rotated: Known, monkeypatch: pytest.MonkeyPatch
):
    # What OpenVINO computes in when it is asked for a precision that is not there.
    monkeypatch.setattr(OpenVINOSession, "precision", "f32")
    common = ("--data", rotated.data, "--repository", rotated.repository)

    told = one_line(run("rotated", *common, "--precision", "bf16"))

    assert "precision bf16 is not available on this processor, which would compute in f32" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--runtime", "openvino"), "rtmdet export"),
        (("--precision", "f16"), "float32 or bf16"),
        (("--device", "tpu"), "it is cpu, cuda, or cuda:N"),
        (("--device", "cuda:99"), "can be seen"),
        (("--input-size", "65"), "multiples of 32"),
        (("--record",), "export them first"),
    ],
)
def test_eval__refuses_of_weights_in_one_line(run: Run, rotated: Known, options, told: str):
    assert told in one_line(run(rotated.checkpoint, "--data", rotated.data, *options))


@pytest.mark.parametrize(
    ("module", "extra"), [("faster_coco_eval", "train"), ("openvino", "serve")]
)
def test_eval__says_which_extra_it_needs(rotated: Known, module: str, extra: str):
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"sys.argv = ['rtmdet', 'eval', 'rotated', '--data', {str(rotated.data)!r}, "
        f"'--repository', {str(rotated.repository)!r}]\n"
        "import rtmdet; rtmdet.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"rtmdet: this command needs the {extra} extra: ")


def test_eval__refuses_data_that_do_not_fit(
    run: Run, rotated: Known, instance: Known, tmp_path: Path
):
    def told(known: Known, data: Path) -> str:
        return one_line(run(known.checkpoint, "--data", data))

    assert "there is no such folder" in told(rotated, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no data set is recognised" in told(rotated, tmp_path / "empty")
    assert "has no outlines" in told(instance, rotated.data)

    content = coco_content()
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    write_coco(tmp_path / "boxes", content, split="val")
    result = run(rotated.checkpoint, "--data", tmp_path / "boxes")
    assert result.exit_code == 2
    assert result.stderr.count("corners or an outline") == 2

    write_dota(tmp_path / "others", ["1 1 9 1 9 9 1 9 dogs 0"], split="val")
    line = told(rotated, tmp_path / "others")
    assert "it has dogs, the model cat, dog" in line
    assert "did you mean 'dog'" in line


def test_eval__refuses_damaged_weights(run: Run, rotated: Known, tmp_path: Path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(rotated.checkpoint.read_bytes()[:-8])
    damaged.with_suffix(".json").write_bytes(rotated.checkpoint.with_suffix(".json").read_bytes())
    assert "sha256" in one_line(run(damaged, "--data", rotated.data))

    published = tmp_path / "damaged.pth"
    published.write_bytes(b"no weights")
    assert str(published) in one_line(run(published, "--data", rotated.data))


def test_eval__refuses_a_damaged_graph(run: Run, rotated: Known, tmp_path: Path):
    folder = tmp_path / "repository" / "rotated"
    for file in (rotated.repository / "rotated").rglob("*.*"):
        target = folder / file.relative_to(rotated.repository / "rotated")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes()[:-1] if file.suffix == ".onnx" else file.read_bytes())

    assert "damaged or was replaced" in one_line(run(folder, "--data", rotated.data))


def test_eval__refuses_a_published_file_that_names_no_classes(run: Run, rotated: Known):
    network, _ = load_checkpoint(rotated.checkpoint)
    export_published(network, Path("nameless.pth"), classes=CLASSES)
    weights = torch.load("nameless.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": weights}, "nameless.pth")

    options = ("--data", rotated.data, "--input-size", SIDE)
    assert "--classes" in one_line(run("nameless.pth", *options))
    named = run("nameless.pth", *options, "--classes", "cat,dog", "--json")
    assert named.json["metrics"]["rotated_ap50"] > 0.9
