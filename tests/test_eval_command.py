"""`rtmdet eval`: the same figures from weights and from exported models, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from typer.testing import CliRunner

import rtmdet
from model.__main__ import app as models_app
from model.checkpoints.checkpoint_files import export_published, load_checkpoint, save_checkpoint
from model.classifier import build_classifier
from model.config import CLASSIFIERS, VARIANTS, Task
from model.export import export_model
from model.graph import Normalise
from model.manifest import MANIFEST_FILE, Source, Thresholds, read_model_manifest
from model.postprocess import PUBLISHED_SETTINGS
from model.repository import ModelRepository
from model.rtmdet import RTMDet, build_rtmdet
from service.detection import DetectOptions
from service.detector import postprocess_settings
from tests.data_sets import coco_content, write_coco, write_dota, write_image, write_lines
from training.classification.saving import save_classifier
from training.config_json import to_json
from training.evaluation.evaluator import EvaluationSettings
from training.evaluation.inference import NetworkInput, detections, read_input
from training.evaluation.instances import Found
from training.evaluation.predictors.torch_network import torch_predictor
from training.overrides import apply_overrides
from training.recipes import recipe

PROJECT = Path(__file__).resolve().parent.parent
SIDE = 64
NUM_IMAGES = 5
CLASSES = ("cat", "dog")
VARIANT: dict[Task, str] = {"instance": "rtmdet-ins-nano", "rotated": "rtmdet-r-nano"}


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        return json.loads(self.stdout)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the real command in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RTMDET_MODEL_REPOSITORY", raising=False)
    torch.set_num_threads(1)

    def invoke(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["rtmdet", "eval", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            rtmdet.main()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return invoke


# ------------------------------------------------------------- a model, and data that it knows


@dataclass(frozen=True)
class Known:
    """A network of random weights as a checkpoint and exported, and images with what it finds."""

    task: Task
    checkpoint: Path
    repository: Path
    data: Path

    @property
    def name(self) -> str:
        return self.checkpoint.stem


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return make_known("instance", tmp_path_factory.mktemp("instance"))


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return make_known("rotated", tmp_path_factory.mktemp("rotated"))


#: Mean and deviation of what a head predicts: logits, distances in strides, angles, kernels.
PREDICTED = {"cls": (-2.0, 1.0), "reg": (2.0, 0.3), "angle": (0.0, 1.0), "kernel": (0.0, 0.5)}


@torch.no_grad()
def make_it_predict(network: RTMDet, inputs: Sequence[NetworkInput]) -> None:
    """Let random weights give scores and boxes of all kinds for these inputs."""
    images = Normalise()(torch.from_numpy(np.stack([each.pixels for each in inputs])))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    network.eval()

    def scaled_to(mean: float, deviation: float) -> Callable[[nn.Module, object, Tensor], None]:
        def scale(layer, _inputs, output: Tensor) -> None:
            layer.weight.mul_(deviation / output.std())
            layer.bias.fill_(mean)

        return scale

    hooks = [
        layer.register_forward_hook(scaled_to(*PREDICTED[name.partition("_")[0]]))
        for name, layer in network.head.named_modules()
        if "predictors.levels." in name
    ]
    network(images)
    for hook in hooks:
        hook.remove()


def make_known(task: Task, folder: Path) -> Known:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build_rtmdet(VARIANTS[VARIANT[task]].with_classes(len(CLASSES))).eval()
    network.config = replace(network.config, input_size=(SIDE, SIDE))
    known = Known(task, folder / f"{task}.safetensors", folder / "repository", folder / "data")
    pictures = Pictures(known.data / "val" / ("images" if task == "rotated" else ""))
    inputs = [read_input(pictures, position, (SIDE, SIDE)) for position in range(NUM_IMAGES)]
    make_it_predict(network, inputs)
    manifest = save_checkpoint(
        network,
        known.checkpoint,
        classes=CLASSES,
        source=Source(kind="trained", command="rtmdet train"),
        input_size=(SIDE, SIDE),
    )
    export_model(network, manifest, known.repository, name=task)
    write_found(known, network, inputs)
    return known


class Pictures:
    """Images on disk."""

    are_upright = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for position in range(NUM_IMAGES):
            random = np.random.default_rng(position)
            coarse = random.integers(0, 256, (5, 6, 3), np.uint8)
            path = self.image_path(position)
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), cv2.resize(coarse, (SIDE + 16, SIDE)))

    def image_path(self, position: int) -> Path:
        return self.folder / f"{position}.png"

    def image_size(self, position: int) -> tuple[int, int]:
        return SIDE, SIDE + 16


def write_found(known: Known, network: RTMDet, inputs: Sequence[NetworkInput]) -> None:
    """Annotate the pictures with the best of what the network finds in them."""
    predictor = torch_predictor(
        network, task=known.task, input_size=(SIDE, SIDE), device=torch.device("cpu")
    )
    settings = PUBLISHED_SETTINGS[known.task]
    found = [
        detections(candidates, one, settings)
        for candidates, one in zip(predictor.candidates(inputs), inputs, strict=True)
    ]
    write = write_as_dota if known.task == "rotated" else write_as_coco
    write(known.data, found)


def best_of(found: Found) -> list[int]:
    """Rows of what has a high score, and of masks some pixels."""
    return [
        row
        for row, score in enumerate(found.scores)
        if score > 0.25 and (found.masks is None or mask_area(found.masks[row]) > 0)
    ]


def mask_area(counts: bytes) -> int:
    return int(coco_mask.area({"size": [SIDE, SIDE + 16], "counts": counts}))


def write_as_coco(data: Path, best: list[Found]) -> None:
    annotations = [
        {
            "id": 1000 * position + row + 1,
            "image_id": 100 + position,
            # Not the labels of the model.
            "category_id": 7 - int(found.labels[row]),
            "bbox": [*found.boxes[row, :2].tolist(), *sides(found.boxes[row])],
            "area": float(np.prod(sides(found.boxes[row]))),
            "iscrowd": 0,
            "segmentation": {
                "size": [SIDE, SIDE + 16],
                "counts": found.masks[row].decode(),  # type: ignore[index]
            },
        }
        for position, found in enumerate(best)
        for row in best_of(found)
    ]
    images = [
        {"id": 100 + n, "file_name": f"{n}.png", "width": SIDE + 16, "height": SIDE}
        for n in range(NUM_IMAGES)
    ]
    categories = [{"id": 6, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 9, "name": "emu"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = data / "annotations" / "instances_val.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))


def sides(box: np.ndarray) -> list[float]:
    return (box[2:] - box[:2]).tolist()


def write_as_dota(data: Path, best: list[Found]) -> None:
    for position, found in enumerate(best):
        lines = []
        for row in best_of(found):
            cx, cy, w, h, angle = found.boxes[row].tolist()
            corners = cv2.boxPoints(((cx, cy), (w, h), np.degrees(angle)))
            numbers = " ".join(f"{value:.4f}" for value in corners.flat)
            lines.append(f"{numbers} {CLASSES[found.labels[row]]} 0")
        write_lines(data / "val" / "labelTxt" / f"{position}.txt", lines)


def test_eval__finds_what_the_network_finds_from_weights_and_exported(run, instance: Known):
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


def test_eval__rotated_boxes_agree_too_and_become_dotas_texts(run, rotated: Known):
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


def test_eval__says_what_was_measured_with_what(run, instance: Known):
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
def test_eval__serving_settings_are_those_of_the_manifest(run, rotated: Known, where: str):
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


def test_eval__records_in_the_manifest_and_replaces_what_was_measured_alike(run, rotated: Known):
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


def test_eval__takes_a_runs_folder_and_a_json_file(run, instance: Known, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    file = instance.data / "annotations" / "instances_val.json"
    assert "no weights yet" in run(folder, "--data", file).stderr
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


def test_eval__large_images_are_seen_in_patches_and_merged(run, rotated: Known):
    options = ("--data", rotated.data, "--json", "--tile", SIDE, "--overlap", 32)
    result = run(rotated.checkpoint, *options, "--detections", "patches.zip")

    assert result.exit_code == 0, result.stderr
    # Of 80 x 64 pixels, in two patches each.
    assert result.json["data"]["images"] == NUM_IMAGES
    assert result.json["data"]["patches"] == {"side": SIDE, "overlap": 32}
    with zipfile.ZipFile("patches.zip") as archive:
        lines = archive.read("Task1_cat.txt").decode().splitlines()
    assert max(float(line.split()[2]) for line in lines) > SIDE


def test_eval__writes_a_report(run, instance: Known):
    result = run(instance.checkpoint, "--data", instance.data, "--report", "report.html")

    assert result.exit_code == 0, result.stderr
    assert "instance on data" in Path("report.html").read_text("utf-8")


def test_eval__writes_nothing_into_the_data(run, instance: Known):
    before = sorted(instance.data.rglob("*"))
    run(instance.checkpoint, "--data", instance.data)

    assert sorted(instance.data.rglob("*")) == before


# ------------------------------------------------------------------------------------- images


def copied(known: Known, folder: Path) -> Path:
    for file in known.data.rglob("*.*"):
        target = folder / file.relative_to(known.data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("damage", ["no image", "cut off"])
def test_eval__an_unreadable_image_ends_it_or_is_named_and_counted(
    run, instance: Known, tmp_path: Path, damage: str
):
    data = copied(instance, tmp_path / "spoilt")
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


# -------------------------------------------------------------------------------- what is refused


def one_line(result: Result) -> str:
    """The one line that says what is wrong."""
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    (line,) = [each for each in result.stderr.splitlines() if each.startswith("rtmdet: ")]
    assert "Traceback" not in result.stderr
    return line


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
        ("rotated", ("--precision", "f16"), "precision f16 is not available"),
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
def test_eval__refuses_in_one_line(run, rotated: Known, what: str, options, told: str):
    common = ("--data", rotated.data, "--repository", rotated.repository)

    assert told in one_line(run(what, *common, *options))


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
def test_eval__refuses_of_weights_in_one_line(run, rotated: Known, options, told: str):
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


def test_eval__refuses_data_that_do_not_fit(run, rotated: Known, instance: Known, tmp_path: Path):
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
    assert "corners or an outline" in told(rotated, tmp_path / "boxes")

    write_dota(tmp_path / "others", ["1 1 9 1 9 9 1 9 dogs 0"], split="val")
    line = told(rotated, tmp_path / "others")
    assert "it has dogs, the model cat, dog" in line
    assert "did you mean 'dog'" in line


def test_eval__refuses_damaged_weights(run, rotated: Known, tmp_path: Path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(rotated.checkpoint.read_bytes()[:-8])
    damaged.with_suffix(".json").write_bytes(rotated.checkpoint.with_suffix(".json").read_bytes())
    assert "sha256" in one_line(run(damaged, "--data", rotated.data))

    published = tmp_path / "damaged.pth"
    published.write_bytes(b"no weights")
    assert str(published) in one_line(run(published, "--data", rotated.data))


def test_eval__refuses_a_damaged_graph(run, rotated: Known, tmp_path: Path):
    folder = tmp_path / "repository" / "rotated"
    for file in (rotated.repository / "rotated").rglob("*.*"):
        target = folder / file.relative_to(rotated.repository / "rotated")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes()[:-1] if file.suffix == ".onnx" else file.read_bytes())

    assert "damaged or was replaced" in one_line(run(folder, "--data", rotated.data))


def test_eval__refuses_a_published_file_that_names_no_classes(run, rotated: Known):
    network, _ = load_checkpoint(rotated.checkpoint)
    export_published(network, Path("nameless.pth"), classes=CLASSES)
    weights = torch.load("nameless.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": weights}, "nameless.pth")

    options = ("--data", rotated.data, "--input-size", SIDE)
    assert "--classes" in one_line(run("nameless.pth", *options))
    named = run("nameless.pth", *options, "--classes", "cat,dog", "--json")
    assert named.json["metrics"]["rotated_ap50"] > 0.9


def test_eval__interrupted_ends_with_130(rotated: Known, tmp_path: Path):
    data, temporary = copied(rotated, tmp_path / "many"), tmp_path / "temporary"
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


# ------------------------------------------------------------------------------------ classifiers


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A classifier of random weights that takes everything for a dog."""
    torch.manual_seed(0)
    network = build_classifier(CLASSIFIERS["cspnext-tiny"], 2)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([0.0, 1.0]))
    save_classifier(network, tmp_path / "best.pth", classes=CLASSES)
    return tmp_path / "best.pth"


def test_eval__classifiers_have_top_1_and_top_5(run, classifier: Path, tmp_path: Path):
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


def test_eval__reports_on_classifiers(run, classifier: Path, tmp_path: Path):
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
    run, classifier: Path, tmp_path: Path
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


def test_eval__refuses_of_classifiers_what_they_have_not(run, classifier: Path, tmp_path: Path):
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


# ---------------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def person(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real weights exported: a repository with the model `person`."""
    from model.checkpoints.importing import Wanted, open_checkpoint

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
    run, person: Path, shared_folder: Path, options: tuple[str, ...]
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
