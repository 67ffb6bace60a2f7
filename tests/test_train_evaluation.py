"""Real runs whose evaluating process is held, killed, and left behind by the run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from typer.testing import CliRunner

from model.checkpoints.checkpoint_files import load_checkpoint, save_checkpoint
from model.manifest import Source
from model.rtmdet import RTMDet
from tests.conftest import PROJECT
from tests.plain_scenes import scene
from training.__main__ import app
from training.data.synthetic.data_set import ShapesPlan, write_shapes
from training.datasets import index_data, open_data
from training.interruption import EXIT_INTERRUPTED
from training.networks import build_network
from training.overrides import apply_overrides
from training.recipes import recipe
from training.run.progress import current_records, read_records
from training.run.run_folder import read_status
from training.workloads.evaluation import TooFewReadable, evaluation_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")

#: Two steps an epoch, evaluated after the second and the third.
SETTINGS = (
    "model.input_size=64",
    "data.batch_size=2",
    "data.num_workers=0",
    "schedule.epochs=3",
    "schedule.last_stage_epochs=2",
    "schedule.warmup_steps=2",
    "ema.horizon_share=0.1",
    "runtime.log_every_steps=1",
    "runtime.num_threads=1",
    "evaluation.num_threads=1",
)
EPOCHS, TOTAL_STEPS = [2, 3], 6

PATIENCE_S = 240

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, ShapesPlan(num_train=4, num_val=2, size=64, seed=3, draw=scene))
    return folder


def new_run(data: Path, out: Path, *more: str) -> list[str]:
    told = ["train", "--recipe", "rtmdet-nano", "--data", str(data), "--out", str(out)]
    return [*told, *(f"--set={each}" for each in (*SETTINGS, *more))]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command; what is left of it when a test fails is ended."""
    started: list[subprocess.Popen[str]] = []

    def begin(*parts: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "rtmdet", *parts],
            cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            # As on a terminal: a signal can be sent to all of the group.
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def processes_of(out: Path) -> list[psutil.Process]:
    """Everything that runs for that folder."""
    return [
        process
        for process in psutil.process_iter(["status", "cmdline"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and str(out) in (process.info["cmdline"] or ())
    ]


def held_evaluation(
    out: Path, process: "subprocess.Popen[str]", *, after: psutil.Process | None = None
) -> psutil.Process:
    """The evaluating process, or the one `after` another, stopped while it still gets ready."""
    deadline = time.monotonic() + PATIENCE_S
    usual = psutil.Process(process.pid).nice()
    while True:
        for each in processes_of(out):
            is_evaluation = "training.evaluation.beside" in each.info["cmdline"]
            # It has stepped aside: from then on it ends with its parent, held or not.
            if is_evaluation and each != after and each.nice() > usual:
                each.suspend()
                return each
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing is evaluated"
        time.sleep(0.1)


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    progress = out / "progress.jsonl"
    found = current_records(read_records(progress)) if progress.is_file() else []
    return [each for each in found if each["kind"] == kind]


def wait_until_trained(out: Path, process: "subprocess.Popen[str]") -> None:
    """Training is done when the last weights are there."""
    deadline = time.monotonic() + PATIENCE_S
    while not (out / "last.json").is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)
    assert [each["step"] for each in records(out, "step")] == list(range(1, TOTAL_STEPS + 1))


def assert_evaluated(out: Path) -> None:
    """Every evaluation is there, at its own epoch, and the best weights are the best of them."""
    found = records(out, "evaluation")
    assert [each["epoch"] for each in found] == EPOCHS
    assert [each["step"] for each in found] == [4, 6]
    assert set(found[0]["per_class"]) <= {"rectangle", "ellipse", "triangle", "star"}
    assert found[0]["per_class"]
    best = max(found, key=lambda each: each["metrics"]["box_ap"])
    _, manifest = load_checkpoint(out / "best.safetensors")
    assert manifest.metrics == best["metrics"]
    assert [path.name for path in (out / "evaluations").iterdir()] == ["process.log"]


def end(process: "subprocess.Popen[str]", expected: int) -> str:
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == expected, said
    return said


def test_train__goes_on_while_an_evaluation_hangs_and_stops_while_it_waits(
    shapes: Path, tmp_path: Path, start: Start
) -> None:
    out = tmp_path / "run"
    process = start(*new_run(shapes, out))
    evaluation = held_evaluation(out, process)
    wait_until_trained(out, process)
    assert records(out, "evaluation") == []
    # To all of the group, as Ctrl-C does it.
    os.killpg(process.pid, signal.SIGINT)
    said = end(process, EXIT_INTERRUPTED)
    assert "waiting for the evaluation after epochs 2, 3" in said
    assert not evaluation.is_running()
    assert processes_of(out) == []
    status = read_status(out)
    assert status is not None
    assert (status.state, status.step) == ("interrupted", TOTAL_STEPS)
    said = end(start("train", "--out", str(out), "--resume"), 0)
    assert "still to be evaluated: after epochs 2, 3" in said
    assert_evaluated(out)


def test_train__two_ranks_go_on_and_a_killed_evaluation_begins_anew(
    shapes: Path, tmp_path: Path, start: Start
) -> None:
    out = tmp_path / "run"
    process = start(*new_run(shapes, out, "data.batch_size=1"), "--num-processes", "2")
    first = held_evaluation(out, process)
    first.kill()
    evaluation = held_evaluation(out, process, after=first)
    wait_until_trained(out, process)
    [problem] = records(out, "problem")
    assert "evaluating after epoch 2 begins anew" in problem["message"]
    assert "SIGKILL" in problem["message"]
    evaluation.resume()
    end(process, 0)
    assert_evaluated(out)
    assert processes_of(out) == []


def test_train__killed_while_it_evaluates_makes_up_for_it(
    shapes: Path, tmp_path: Path, start: Start
) -> None:
    out = tmp_path / "run"
    process = start(*new_run(shapes, out))
    evaluation = held_evaluation(out, process)
    wait_until_trained(out, process)
    process.kill()
    end(process, -signal.SIGKILL)
    psutil.wait_procs([evaluation], timeout=PATIENCE_S)
    assert processes_of(out) == []
    end(start("train", "--out", str(out), "--resume"), 0)
    assert_evaluated(out)


def test_train__evaluations_that_die_end_no_run_but_are_no_success(
    shapes: Path, tmp_path: Path, start: Start
) -> None:
    out = tmp_path / "run"
    process = start(*new_run(shapes, out, "schedule.last_stage_epochs=0"))
    first = held_evaluation(out, process)
    first.kill()
    held_evaluation(out, process, after=first).kill()
    said = end(process, 1)
    assert "finished, but no evaluation worked" in said
    assert f"rtmdet export {out}/last.safetensors" in said
    status = read_status(out)
    assert status is not None
    assert (status.state, status.exit_code) == ("finished", 1)


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A data set with a validation image that turns out unreadable when it is evaluated."""
    folder = tmp_path / "spoiled"
    write_shapes(folder, ShapesPlan(num_train=2, num_val=3, size=64, seed=3, draw=scene))
    path = min((folder / "val").rglob("*.jpg"))
    # Its header is whole; the scan that would follow is not there.
    path.write_bytes(path.read_bytes().partition(b"\xff\xda")[0])
    return path


def test_train__unreadable_validation_image_is_left_out(spoiled: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "spoiled", tmp_path / "run"
    result = CliRunner().invoke(app, new_run(data, out, "schedule.epochs=2"))
    assert result.exit_code == 0, result.stderr
    [problem] = records(out, "problem")
    assert "unreadable and not evaluated on" in problem["message"]
    assert spoiled.name in problem["message"]
    assert {each["num_images"] for each in records(out, "evaluation")} == {2}


def test_evaluation_of__too_many_unreadable_images_give_no_figures(
    spoiled: Path, tmp_path: Path
) -> None:
    config = apply_overrides(recipe("rtmdet-nano"), (*SETTINGS, "data.max_unreadable=0"))
    index_data(config, tmp_path / "spoiled", tmp_path)
    data = open_data(config, tmp_path)
    network = build_network(config.model, len(data.classes))
    assert isinstance(network, RTMDet)
    source = Source(kind="initialised")
    save_checkpoint(network, tmp_path / "w.safetensors", classes=data.classes, source=source)
    evaluate = evaluation_of(config, data, torch.device("cpu"))
    with pytest.raises(TooFewReadable, match=rf"max_unreadable is 0; the last one: .*{spoiled}"):
        evaluate(tmp_path / "w", lambda _done, _total: True)


def test_train__refuses_a_device_for_evaluation_that_is_none(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, new_run(shapes, out, "evaluation.device=tpu"))
    assert result.exit_code == 2
    assert "evaluation.device 'tpu'" in result.stderr
    assert not out.exists()
