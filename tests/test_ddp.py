"""Two ranks with half of the batch each compute what one process computes with all of it."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.config import Task
from tests.ddp_rank import COUNTS, TASKS, gradients
from training.distributed import Ranks
from training.run.launch import launch

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks computed, a file for each task and case."""
    folder = tmp_path_factory.mktemp("ddp")
    assert launch(2, [sys.executable, "-m", "tests.ddp_rank", str(folder)], 60, logs=folder) == 0
    return folder


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("case", COUNTS)
def test_ddp__gradients_are_those_of_the_whole_batch(together: Path, task: Task, case: str) -> None:
    theirs = load_file(together / f"{task}-{case}.safetensors")
    alone = gradients(task, case, ALONE)
    assert theirs.keys() == alone.keys()
    for name, value in alone.items():
        difference = (theirs[name] - value).norm()
        assert difference <= 1e-3 * value.norm() + 1e-6, name


def test_ddp__a_batch_without_boxes_is_another_one() -> None:
    name = "backbone.stem.0.conv.weight"
    even, empty = (gradients("detect", case, ALONE)[name] for case in ("even", "no box"))
    assert (even - empty).norm() > 0.01 * even.norm()


def test_ddp__ranks_with_norms_of_their_own_evaluate_one_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.trainer_rank", str(tmp_path)]
    assert launch(2, command, 60, logs=tmp_path) == 0
    first, second = (load_file(tmp_path / f"average-{rank}.safetensors") for rank in range(2))
    evaluated = load_file(tmp_path / "best.safetensors")
    for name, value in first.items():
        assert torch.equal(second[name], value), name
        assert torch.equal(evaluated[name], value), name
