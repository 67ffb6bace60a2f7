import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner, Result

from model.checkpoints.checkpoint_files import load_checkpoint, save_checkpoint
from model.config import VARIANTS
from model.manifest import Source
from model.rtmdet import build_rtmdet
from tests.conftest import PROJECT
from tests.data_sets import coco_content, write_coco
from tests.plain_scenes import scene
from training.__main__ import app
from training.checkpoint import CheckpointStore, TrainingState
from training.data.synthetic.data_set import ShapesPlan, write_shapes
from training.data.synthetic.outlines import SHAPE_NAMES
from training.interruption import EXIT_INTERRUPTED
from training.run.launch import EXIT_MISTAKE, launch
from training.run.progress import current_records, read_records
from training.run.run_folder import read_status

#: Five steps an epoch of two batches of two images each; the stage changes after step 10.
SMALL = (
    "model.input_size=64",
    "data.batch_size=2",
    "data.num_workers=2",
    "optimizer.accumulation_steps=2",
    "schedule.epochs=4",
    "schedule.last_stage_epochs=2",
    "schedule.warmup_steps=4",
    "runtime.checkpoint_every_steps=3",
    "runtime.log_every_steps=1",
    "runtime.num_threads=1",
)
TOTAL_STEPS = 20


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training and 4 validation images in COCO's layout."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, ShapesPlan(num_train=20, num_val=4, size=96, seed=3, draw=scene))
    return folder


def arguments(*parts: object, settings: tuple[str, ...] = SMALL) -> list[str]:
    return [str(each) for each in parts] + [f"--set={each}" for each in settings]


def new_run(data: Path, out: Path, *more: str, recipe: str = "rtmdet-nano") -> list[str]:
    return arguments("--recipe", recipe, "--data", data, "--out", out, settings=(*SMALL, *more))


def invoke(*parts: object, settings: tuple[str, ...] = ()) -> Result:
    return CliRunner().invoke(app, ["train", *arguments(*parts, settings=settings)])


def succeeded(result: Result) -> str:
    """What a run in this process, to the end, said on stderr: it saves a start of Python."""
    assert result.exit_code == 0, result.stderr
    return result.stderr


def refused(result: Result) -> str:
    """The one line of a mistake."""
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def start(*parts: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "rtmdet", "train", *parts],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def complete(*parts: str, expected: int = 0) -> str:
    """Run to the end; what it said on stderr."""
    process = start(*parts)
    _, said = process.communicate(timeout=300)
    assert process.returncode == expected, said
    return said


def steps_done(out: Path) -> int:
    progress = out / "progress.jsonl"
    records = current_records(read_records(progress)) if progress.is_file() else []
    return max((each["step"] for each in records if each["kind"] == "step"), default=0)


def wait_for_step(out: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Follow `progress.jsonl` as another program would."""
    deadline = time.monotonic() + 240
    while steps_done(out) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)


def last_state(out: Path) -> TrainingState:
    state = CheckpointStore(out / "checkpoints", 2).load_latest()
    assert state is not None
    return state


def assert_same_bits(ours: TrainingState, theirs: TrainingState) -> None:
    assert ours.step == theirs.step
    assert ours.average_updates == theirs.average_updates
    assert ours.optimizer.tensors.keys() == theirs.optimizer.tensors.keys()
    for here, there in (
        (ours.weights, theirs.weights),
        (ours.average, theirs.average),
        (ours.optimizer.tensors, theirs.optimizer.tensors),
    ):
        for name, value in here.items():
            assert torch.equal(value, there[name]), name


@pytest.fixture(scope="module")
def whole_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    complete(*new_run(shapes, out))
    return out


# ------------------------------------------------------------------------------- a whole run


def test_train__leaves_everything_that_is_promised(whole_run: Path) -> None:
    network, manifest = load_checkpoint(whole_run / "last.safetensors")
    assert manifest.source.command is not None
    assert "--set=schedule.epochs=4" in manifest.source.command
    assert network.config.num_classes == len(SHAPE_NAMES)
    assert manifest.classes == SHAPE_NAMES
    assert manifest.source.kind == "trained"
    assert (whole_run / "best.safetensors").is_file()
    assert cv2.imread(str(whole_run / "samples" / "mixing.jpg")) is not None
    assert cv2.imread(str(whole_run / "samples" / "jitter.jpg")) is not None
    assert list((whole_run / "tensorboard").iterdir())
    status = read_status(whole_run)
    assert status is not None
    assert (status.state, status.exit_code, status.step) == ("finished", 0, TOTAL_STEPS)


def test_train__progress_can_be_followed(whole_run: Path) -> None:
    records = list(read_records(whole_run / "progress.jsonl"))
    steps = [each for each in records if each["kind"] == "step"]
    assert [each["step"] for each in steps] == list(range(1, TOTAL_STEPS + 1))
    assert {"loss", "loss_cls", "loss_box", "lr", "images_per_second", "eta_s"} <= set(steps[0])
    assert [each["stage"] for each in records if each["kind"] == "stage"] == ["mixing", "jitter"]
    evaluations = [each for each in records if each["kind"] == "evaluation"]
    assert [each["epoch"] for each in evaluations] == [3, 4]
    assert "box_ap" in evaluations[0]["metrics"]


def test_train__resumed_when_finished_changes_nothing(whole_run: Path) -> None:
    before = last_state(whole_run)
    said = succeeded(invoke("--out", whole_run, "--resume"))
    assert "finished" in said
    assert_same_bits(before, last_state(whole_run))


# ------------------------------------------------------------------------ stopped and resumed


#: Gives a run that was stopped soon after a step, for one test alone.
Stopped = Callable[[int], Path]


@pytest.fixture(scope="module")
def stopped_once(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    @cache
    def stopped(step: int) -> Path:
        out = tmp_path_factory.mktemp("runs") / "stopped"
        process = start(*new_run(shapes, out))
        wait_for_step(out, step, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
        assert process.returncode == EXIT_INTERRUPTED, said
        assert step <= last_state(out).step < TOTAL_STEPS
        status = read_status(out)
        assert status is not None
        assert status.state == "interrupted"
        return out

    return stopped


@pytest.fixture
def stopped(stopped_once: Stopped, tmp_path: Path) -> Stopped:
    return lambda step: shutil.copytree(stopped_once(step), tmp_path / "run")


@pytest.mark.parametrize("step", [4, 12])
def test_train__stopped_and_resumed_equals_uninterrupted(
    whole_run: Path, stopped: Stopped, step: int
) -> None:
    out = stopped(step)
    complete("--out", str(out), "--resume")
    assert_same_bits(last_state(out), last_state(whole_run))


@pytest.mark.slow
def test_train__killed_at_random_moments_equals_uninterrupted(
    shapes: Path, whole_run: Path, tmp_path: Path
) -> None:
    out, moments = tmp_path / "run", random.Random(5)
    process = start(*new_run(shapes, out))
    for _ in range(3):
        target = min(steps_done(out) + moments.randint(2, 6), TOTAL_STEPS - 1)
        wait_for_step(out, target, process)
        time.sleep(moments.random() * 0.2)
        process.kill()
        process.communicate(timeout=60)
        process = start("--out", str(out), "--resume")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert_same_bits(last_state(out), last_state(whole_run))


def test_train__killed_before_the_first_checkpoint_begins_anew(
    shapes: Path, whole_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(*new_run(shapes, out))
    deadline = time.monotonic() + 120
    while not (out / "config.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    complete("--out", str(out), "--resume")
    assert_same_bits(last_state(out), last_state(whole_run))


#: The command, with a request to stop that comes just before a part of getting ready.
_STOPPED_EARLY = """
import signal, sys
from training import session
from training.__main__ import app

part = sys.argv.pop(1)
do_part = getattr(session, part)

def stopped(*arguments):
    signal.raise_signal(signal.SIGTERM)
    return do_part(*arguments)

setattr(session, part, stopped)
app()
"""


def stop_before(part: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _STOPPED_EARLY, part, "train", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


def test_train__asked_to_stop_before_the_data_are_read(shapes: Path, tmp_path: Path) -> None:
    done = stop_before("index_data", *new_run(shapes, tmp_path / "run"))
    assert done.returncode == EXIT_INTERRUPTED, done.stderr
    assert "stopped by SIGTERM before anything was trained" in done.stderr
    assert not (tmp_path / "run").exists()


def test_train__asked_to_stop_before_the_first_step(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = stop_before("open_data", *new_run(shapes, out))
    assert done.returncode == EXIT_INTERRUPTED, done.stderr
    assert steps_done(out) == 0
    status = read_status(out)
    assert status is not None
    assert status.state == "interrupted"


# -------------------------------------------------------------------------------- mistakes


def test_train__unknown_recipe_names_the_nearest(shapes: Path, tmp_path: Path) -> None:
    result = invoke("--recipe", "rtmdet-tinny", "--data", shapes, "--out", tmp_path / "run")
    assert "did you mean 'rtmdet-tiny'" in refused(result)


def test_train__unknown_setting_names_the_nearest(shapes: Path, tmp_path: Path) -> None:
    result = invoke(
        "--recipe", "rtmdet-tiny", "--data", shapes, "--out", tmp_path / "run",
        settings=("optimizer.learning=1",),
    )  # fmt: skip
    assert "unknown setting 'optimizer.learning'" in refused(result)
    assert "optimizer.lr" in result.stderr


@pytest.mark.parametrize("missing", ["--recipe", "--data", "--out"])
def test_train__says_which_option_is_missing(shapes: Path, tmp_path: Path, missing: str) -> None:
    options = {"--recipe": "rtmdet-tiny", "--data": shapes, "--out": tmp_path / "run"}
    del options[missing]
    result = invoke(*(part for pair in options.items() for part in pair))
    assert f"{missing} is missing" in refused(result)


def test_train__refuses_a_folder_with_another_run(shapes: Path, whole_run: Path) -> None:
    result = invoke("--recipe", "rtmdet-tiny", "--data", shapes, "--out", whole_run)
    assert "another run" in refused(result)
    assert "rtmdet-nano" in result.stderr


def test_train__refuses_a_folder_with_this_run(shapes: Path, whole_run: Path) -> None:
    result = CliRunner().invoke(app, ["train", *new_run(shapes, whole_run)])
    assert "--resume" in refused(result)


def test_train__refuses_a_folder_with_something_else(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = invoke("--recipe", "rtmdet-nano", "--data", shapes, "--out", tmp_path)
    assert "thesis.txt" in refused(result)


def test_train__nothing_to_resume(tmp_path: Path) -> None:
    assert "nothing to resume" in refused(invoke("--out", tmp_path / "run", "--resume"))


def test_train__broken_data_leave_no_run_behind(tmp_path: Path, shapes: Path) -> None:
    data = tmp_path / "data"
    write_shapes(data, ShapesPlan(num_train=3, num_val=1, size=64, seed=0, draw=scene))
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 77
    file.write_text(json.dumps(content))
    (data / "train/images" / content["images"][1]["file_name"]).unlink()
    result = invoke("--recipe", "rtmdet-nano", "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "77" in result.stderr
    assert content["images"][1]["file_name"] in result.stderr
    assert not (tmp_path / "run").exists()


def test_train__weights_of_another_size_name_the_first_mismatch(
    shapes: Path, tmp_path: Path
) -> None:
    config = VARIANTS["rtmdet-tiny"].with_classes(2)
    weights = tmp_path / "tiny.safetensors"
    source = Source(kind="initialised")
    save_checkpoint(build_rtmdet(config), weights, classes=("cat", "dog"), source=source)
    result = CliRunner().invoke(
        app, ["train", *new_run(shapes, tmp_path / "run", f"model.init={weights}")]
    )
    assert "tiny.safetensors" in refused(result)
    assert "[" in result.stderr
    assert "instead of" in result.stderr
    assert not (tmp_path / "run").exists()


def tiny_run(data: Path, out: Path) -> list[str]:
    """One epoch of four images without workers."""
    return new_run(data, out, "schedule.epochs=1", "data.num_workers=0")


def test_train__changed_data_are_not_resumed(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    write_shapes(data, ShapesPlan(num_train=4, num_val=1, size=64, seed=0, draw=scene))
    succeeded(invoke(*tiny_run(data, out)))
    file = data / "annotations" / "instances_train.json"
    file.write_text(file.read_text() + " ")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for _ in range(2):
        assert "has changed" in refused(invoke("--out", out, "--resume"))
    del before[out / "lock"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert f"model.init={out}/best.safetensors" in invoke("--out", out, "--resume").stderr


def test_train__changed_data_of_a_run_without_weights_are_not_resumed(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    write_shapes(data, ShapesPlan(num_train=4, num_val=1, size=64, seed=0, draw=scene))
    succeeded(invoke(*tiny_run(data, out)))
    for weights in [*out.glob("best.*"), *out.glob("last.*")]:
        weights.unlink()
    file = data / "annotations" / "instances_train.json"
    file.write_text(file.read_text() + " ")
    assert "or start a new run\n" in refused(invoke("--out", out, "--resume"))


def test_train__killed_between_two_splits_reads_the_second(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    write_shapes(data, ShapesPlan(num_train=4, num_val=1, size=64, seed=0, draw=scene))
    succeeded(invoke(*tiny_run(data, out)))
    shutil.rmtree(out / "index" / "val")
    shutil.rmtree(out / "checkpoints")
    succeeded(invoke("--out", out, "--resume"))
    assert (out / "index" / "val").is_dir()


def test_train__relative_data_are_found_again_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shapes(tmp_path / "data", ShapesPlan(num_train=4, num_val=1, size=64, seed=0, draw=scene))
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    result = CliRunner().invoke(app, ["train", *tiny_run(Path("../data"), Path("../run"))])
    assert result.exit_code == 0, result.stderr
    monkeypatch.chdir(tmp_path)
    result = invoke("--out", "run", "--resume", "--data", "data")
    assert result.exit_code == 0, result.stderr
    assert "it is finished already" in result.stderr


def test_train__without_validation_images_keeps_the_last_weights(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    write_shapes(data, ShapesPlan(num_train=4, num_val=1, size=64, seed=0, draw=scene))
    (data / "annotations" / "instances_val.json").unlink()
    result = CliRunner().invoke(app, ["train", *tiny_run(data, out)])
    assert result.exit_code == 0, result.stderr
    assert "nothing to evaluate on" in result.stderr
    assert f"rtmdet export {out}/last.safetensors" in result.stderr
    assert not (out / "best.safetensors").exists()
    assert "evaluation" not in {each["kind"] for each in read_records(out / "progress.jsonl")}


def test_train__starts_ranks_beside_a_folder_named_like_the_command(
    shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "rtmdet").mkdir()
    (tmp_path / "rtmdet" / "__init__.py").touch()
    out = tmp_path / "run"
    command = Path(sys.executable).with_name("rtmdet")
    done = subprocess.run(
        [command, "train", *tiny_run(shapes, out), "--num-processes", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------- the plan


def test_train__dry_run_prints_the_plan_and_leaves_nothing(shapes: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", *new_run(shapes, tmp_path / "run"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "5 steps an epoch, 20 in all" in result.stdout
    assert "mixing: epochs 1 to 2" in result.stdout
    assert "  schedule.epochs=4" in result.stdout
    assert not (tmp_path / "run").exists()


def test_train__dry_run_tries_the_initial_weights(shapes: Path, tmp_path: Path) -> None:
    config = VARIANTS["rtmdet-tiny"].with_classes(1)
    weights = tmp_path / "tiny.safetensors"
    source = Source(kind="initialised")
    save_checkpoint(build_rtmdet(config), weights, classes=("cat",), source=source)
    options = ("--data", shapes, "--dry-run", f"--set=model.init={weights}")
    fits = invoke("--recipe", "rtmdet-tiny-finetune", *options)
    assert fits.exit_code == 0, fits.stderr
    assert "tiny.safetensors" in fits.stdout
    assert "instead of" in refused(invoke("--recipe", "rtmdet-nano-finetune", *options))


def test_train__dry_run_of_a_resumed_run_needs_no_initial_weights(
    whole_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    content["config"]["model"]["init"] = "gone.pth"
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    result = invoke("--out", tmp_path / "run", "--resume", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "this run's checkpoint" in result.stdout


def test_train__dry_run_as_json(shapes: Path) -> None:
    result = CliRunner().invoke(
        app, ["train", "--recipe", "rtmdet-tiny", "--data", str(shapes), "--dry-run", "--json"]
    )
    content = json.loads(result.stdout)
    assert content["plan"]["train_images"] == 20
    assert content["config"]["optimizer"]["lr"] == 0.004


def test_train__help_has_an_example() -> None:
    result = CliRunner().invoke(app, ["train", "--help"])
    assert "Example: rtmdet train --recipe" in result.stdout


# ------------------------------------------------------------------------- other kinds of runs


def test_train__fine_tunes_real_weights_to_other_classes(
    shared_folder: Path, tmp_path: Path
) -> None:
    weights = shared_folder / "real" / "rtmdet_nano_person.pth"
    said = succeeded(
        invoke(
            "--recipe", "rtmdet-nano-finetune",
            "--data", shared_folder / "data" / "coco-mini",
            "--out", tmp_path / "run",
            settings=(
                f"model.init={weights}",
                "model.input_size=96",
                "schedule.epochs=1",
                "data.num_workers=0",
                "runtime.num_threads=1",
            ),
        )
    )  # fmt: skip
    assert "class" in said
    assert "80 classes" in said
    network, manifest = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert network.config.num_classes == len(manifest.classes) == 80


def folders_of_images(folder: Path) -> Iterator[Path]:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for number in range(6):
                level = 40 + 160 * label + rng.integers(-20, 20, (48, 64, 3))
                path = folder / split / name / f"{number}.png"
                cv2.imwrite(str(path), level.astype(np.uint8))
                yield path


def test_train__classifier_becomes_the_backbone_of_a_detector(shapes: Path, tmp_path: Path) -> None:
    assert len(list(folders_of_images(tmp_path / "images"))) == 24
    small = (
        "model.input_size=64",
        "data.batch_size=4",
        "data.num_workers=0",
        "schedule.epochs=1",
        "runtime.num_threads=1",
    )
    out = tmp_path / "backbone"
    succeeded(
        invoke(
            "--recipe", "cspnext-tiny", "--data", tmp_path / "images", "--out", out, settings=small
        )
    )
    records = [
        each for each in read_records(out / "progress.jsonl") if each["kind"] == "evaluation"
    ]
    assert {"top1", "top5"} == set(records[-1]["metrics"])
    said = succeeded(
        invoke(
            "--recipe", "rtmdet-tiny", "--data", shapes, "--out", tmp_path / "detector",
            settings=(*small, f"model.init={out / 'last.pth'}"),
        )
    )  # fmt: skip
    assert "backbone" in said


def processes_of(out: Path) -> list[psutil.Process]:
    """Everything that runs for that folder: launcher, ranks; workers have their rank's command."""
    return [
        process
        for process in psutil.process_iter()
        if process.status() != psutil.STATUS_ZOMBIE and str(out) in process.cmdline()
    ]


def test_train__two_ranks_stop_save_and_go_on(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*new_run(shapes, out, "data.batch_size=1"), "--num-processes", "2")
    wait_for_step(out, 3, process)
    assert len(processes_of(out)) >= 1 + 2 + 4
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert processes_of(out) == []
    stopped = last_state(out)
    assert 3 <= stopped.step < TOTAL_STEPS
    assert len(stopped.random) == 2
    said = complete("--out", str(out), "--resume", "--num-processes", "2")
    assert "processes before" not in said
    assert last_state(out).step == TOTAL_STEPS


def test_train__goes_on_with_another_number_of_ranks(stopped: Stopped) -> None:
    out = stopped(12)
    said = complete("--out", str(out), "--resume", "--num-processes", "2")
    assert "processes before: 1, now: 2" in said
    assert last_state(out).epoch == 4


def test_dry_run__lists_every_problem_of_the_data(tmp_path: Path) -> None:
    content = coco_content()
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 2, 3]
    write_coco(tmp_path / "set", content)

    result = invoke("--recipe", "rtmdet-nano", "--data", tmp_path / "set", "--dry-run")

    assert result.exit_code == 2
    assert [f"annotation {number}: 'bbox'" in result.stderr for number in (101, 102, 103)] == [
        True
    ] * 3


#: A rank of two, the second of which fails while it gets ready.
_SECOND_FAILS = """
import os, sys
from training import session
from training.__main__ import app

def fail(*arguments):
    raise ValueError("there is something wrong here alone")

if os.environ["RANK"] == "1":
    session.open_data = fail
app()
"""


def test_train__a_rank_lost_while_getting_ready_is_said_in_a_line(
    shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", _SECOND_FAILS, "train", *new_run(shapes, tmp_path / "run")]
    assert launch(2, command, 60, logs=tmp_path / "logs") == EXIT_MISTAKE
    said = capfd.readouterr().err
    assert "rtmdet: another process of this run has ended" in said
    assert "Traceback" not in said
