"""The project's own models: what a fresh clone shows works, and is what its manifest says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.config import Task
from model.manifest import ModelManifest, VersionManifest, file_sha256, read_model_manifest
from tests.conftest import PROJECT
from training.data.synthetic.data_set import ShapesPlan, write_shapes
from training.data.synthetic.outlines import SHAPE_NAMES

REPOSITORY = PROJECT / "triton_repo"
MODELS: dict[str, Task] = {
    "rtmdet-nano-shapes": "detect",
    "rtmdet-ins-nano-shapes": "instance",
    "rtmdet-r-nano-shapes": "rotated",
}
MAX_BYTES = 6_000_000

#: Scenes of a seed that nothing was trained on or chosen by, and how many of them.
UNSEEN_SEED = 2
NUM_SCENES = 60


def manifest_of(name: str) -> ModelManifest:
    return read_model_manifest(REPOSITORY / name / "model.json")


def newest(name: str) -> tuple[Path, VersionManifest]:
    versions = manifest_of(name).versions
    number = max(versions)
    return REPOSITORY / name / str(number), versions[number]


@pytest.mark.parametrize("name", MODELS)
def test_shipped_model__is_small_and_whole(name: str):
    folder, version = newest(name)
    files = [path for path in (REPOSITORY / name).rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    assert {path.name for path in folder.iterdir()} == set(version.files)
    for file, digest in version.files.items():
        assert file_sha256(folder / file) == digest


@pytest.mark.parametrize(("name", "task"), MODELS.items())
def test_shipped_model__says_how_it_was_made(name: str, task: Task):
    _, version = newest(name)

    assert version.task == task
    assert sorted(version.classes) == sorted(SHAPE_NAMES)
    assert version.source.kind == "trained"
    assert version.source.command is not None
    assert f"--recipe {name}" in version.source.command
    assert version.evaluations


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unseen") / "set"
    write_shapes(folder, ShapesPlan(num_train=1, num_val=NUM_SCENES, size=320, seed=UNSEEN_SEED))
    return folder


def measured(name: str, data: Path, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "rtmdet", "eval", name, "--data", str(data), "--json"]
    command += ["--repository", str(REPOSITORY), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["metrics"]


#: Below what the manifests say, for few scenes scatter: a model that is broken falls further.
LEAST = {
    "rtmdet-nano-shapes": {"box_ap50": 0.90, "box_ap": 0.75},
    "rtmdet-ins-nano-shapes": {"mask_ap50": 0.88, "mask_ap": 0.60},
    "rtmdet-r-nano-shapes": {"rotated_ap50": 0.87, "rotated_ap75": 0.70},
}


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_shipped_model__finds_shapes_in_unseen_scenes(
    name: str, least: dict[str, float], scenes: Path
):
    metrics = measured(name, scenes)

    assert [metric for metric, bound in least.items() if metrics[metric] < bound] == []


def test_demo__shows_every_model_on_every_picture(tmp_path: Path):
    demo = PROJECT / "examples/demo.py"
    done = subprocess.run(
        [sys.executable, demo], capture_output=True, text=True, cwd=tmp_path, check=False
    )

    assert done.returncode == 0, done.stderr
    pictures = sorted((PROJECT / "examples/pictures").glob("*.jpg"))
    assert pictures
    for name in MODELS:
        for picture in pictures:
            stem = tmp_path / f"out/demo/{picture.stem}.{name}"
            answer = json.loads(stem.with_name(f"{stem.name}.json").read_text())
            assert answer["model"]["name"] == name
            assert answer["detections"]
            assert stem.with_name(f"{stem.name}.jpg").read_bytes().startswith(b"\xff\xd8")


def test_demo__says_which_picture_is_missing(tmp_path: Path):
    command = [sys.executable, PROJECT / "examples/demo.py", "--picture", "street.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 2
    assert "there is no street.jpg" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_demo__shows_the_projects_models_whatever_repository_is_set(tmp_path: Path):
    picture = min((PROJECT / "examples/pictures").glob("*.jpg"))
    done = subprocess.run(
        [sys.executable, PROJECT / "examples/demo.py", "--picture", picture],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env=os.environ | {"RTMDET_MODEL_REPOSITORY": str(tmp_path / "mine")},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_demo__reaches_its_server_whatever_proxy_is_set(tmp_path: Path):
    picture = min((PROJECT / "examples/pictures").glob("*.jpg"))
    command = [sys.executable, PROJECT / "examples/demo.py", "--picture", picture]
    # Nobody listens there.
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = subprocess.run(
        [*command, "--model", next(iter(MODELS))],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | proxies, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
