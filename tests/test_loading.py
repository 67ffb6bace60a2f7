"""The loader: the same batches however they are made, and workers that end when they should."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.drawn_scenes import DrawnScenes, scenes_config
from training.data.annotations import Annotations
from training.data.sampling.images import UnreadableImage
from training.data.sampling.loading import TrainingLoader, WorkerLost
from training.targets import DetectionBatch

PROJECT = Path(__file__).resolve().parent.parent


class Loaders:
    """Builds loaders and closes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: list[TrainingLoader] = []

    def __call__(self, task: str = "detect", *, num_workers: int = 0) -> TrainingLoader:
        folder = self._folder / task
        folder.mkdir(exist_ok=True)
        config = scenes_config(task, num_workers=num_workers)
        self._built.append(TrainingLoader(DrawnScenes(folder, task, 24), config))
        return self._built[-1]

    def close(self) -> None:
        for loader in self._built:
            loader.close()


@pytest.fixture
def loaders(tmp_path: Path) -> Iterator[Loaders]:
    built = Loaders(tmp_path)
    yield built
    built.close()


def _same(one: DetectionBatch, other: DetectionBatch) -> bool:
    tensors = zip(_tensors(one), _tensors(other), strict=True)
    return one.targets.counts == other.targets.counts and all(
        torch.equal(mine, yours) for mine, yours in tensors
    )


def _tensors(batch: DetectionBatch) -> list[torch.Tensor]:
    targets = batch.targets
    optional = [each for each in (targets.centres, targets.masks) if each is not None]
    return [batch.images, targets.boxes, targets.labels, *optional]


def _all_same(ones: list[DetectionBatch], others: list[DetectionBatch]) -> bool:
    return len(ones) == len(others) and all(map(_same, ones, others))


def _workers() -> list[psutil.Process]:
    """Forked children have this process's command; other tests leave children with their own."""
    ours = psutil.Process()
    return [
        child
        for child in ours.children()
        if child.status() != psutil.STATUS_ZOMBIE and child.cmdline() == ours.cmdline()
    ]


@pytest.mark.parametrize("task", ["detect", "instance", "rotated"])
def test_training_loader__workers_give_what_the_process_itself_gives(
    loaders: Loaders, task: str
) -> None:
    assert _all_same(
        list(loaders(task, num_workers=1).epoch(1)), list(loaders(task, num_workers=0).epoch(1))
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_loader__resumes_in_the_middle_of_an_epoch(
    loaders: Loaders, num_workers: int
) -> None:
    whole = list(loaders(num_workers=num_workers).epoch(3))
    assert _all_same(list(loaders(num_workers=num_workers).epoch(3, 4)), whole[4:])


def test_training_loader__fills_its_batches(loaders: Loaders) -> None:
    loader = loaders("instance")
    batches = list(loader.epoch(0))
    assert len(batches) == loader.batches_per_epoch == 6
    for batch in batches:
        targets = batch.targets
        assert batch.images.shape == (4, 128, 160, 3)
        assert batch.images.dtype == torch.uint8
        assert len(targets.counts) == 4
        assert targets.centres is not None
        assert targets.masks is not None
        assert {len(each) for each in _tensors(batch)[1:]} == {sum(targets.counts)}
        assert targets.masks.shape[1:] == (32, 5)
        assert targets.centres.dtype == targets.boxes.dtype == torch.float32


def test_training_loader__an_epoch_left_early_leaves_nothing_behind(loaders: Loaders) -> None:
    expected = list(loaders(num_workers=2).epoch(5))
    loader = loaders(num_workers=2)
    left = loader.epoch(4)
    next(left)
    assert _all_same(list(loader.epoch(5)), expected)


def test_training_loader__an_epoch_can_be_started_again(loaders: Loaders) -> None:
    loader = loaders(num_workers=2)
    first = loader.epoch(2)
    begun = [next(first), next(first)]
    again = list(loader.epoch(2))
    assert _all_same(begun, again[:2])
    assert next(first, None) is None


def test_training_loader__keeps_its_workers_from_epoch_to_epoch(loaders: Loaders) -> None:
    loader = loaders(num_workers=2)
    list(loader.epoch(0))
    first = {each.pid for each in _workers()}
    list(loader.epoch(1))
    assert len(first) == 2
    assert {each.pid for each in _workers()} == first


def test_training_loader__closed_leaves_no_process(loaders: Loaders) -> None:
    loader = loaders(num_workers=2)
    epoch = loader.epoch(0)
    next(epoch)
    workers = _workers()
    loader.close()
    assert len(workers) == 2
    assert not [each for each in workers if each.is_running()]


def test_training_loader__closed_can_be_used_again(loaders: Loaders) -> None:
    loader = loaders(num_workers=1)
    before = list(loader.epoch(0))
    loader.close()
    assert _all_same(list(loader.epoch(0)), before)


def test_training_loader__leaves_global_random_states_alone(loaders: Loaders) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    list(loaders(num_workers=1).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]


def test_training_loader__starts_workers_beside_torch_threads(loaders: Loaders) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.rand(600, 600) @ torch.rand(600, 600)
        assert len(list(loaders(num_workers=2).epoch(0))) == 6
    finally:
        torch.set_num_threads(threads)


def test_training_loader__workers_survive_requests_to_stop(loaders: Loaders) -> None:
    expected = list(loaders(num_workers=2).epoch(0))
    loader = loaders(num_workers=2)
    epoch = loader.epoch(0)
    batches = [next(epoch)]
    for number in (signal.SIGTERM, signal.SIGINT):
        for worker in _workers():
            worker.send_signal(number)
    assert _all_same([*batches, *epoch], expected)


def test_training_loader__a_killed_worker_is_an_error_that_says_what_to_do(
    loaders: Loaders,
) -> None:
    epoch = loaders(num_workers=1).epoch(0)
    next(epoch)
    (worker,) = _workers()
    worker.kill()
    with pytest.raises(WorkerLost, match=r"lower data\.num_workers, data\.cache_mib"):
        list(epoch)


def test_training_loader__reports_images_that_were_replaced(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 8)
    scenes.image_path(5).write_bytes(b"")
    loader = TrainingLoader(scenes, scenes_config("detect", num_workers=1))
    problems = [line for batch in loader.epoch(0) for line in batch.problems]
    loader.close()
    assert len(problems) == 1
    assert problems[0].startswith(str(scenes.image_path(5)))


def test_training_loader__no_readable_image_is_an_error_of_one_line(tmp_path: Path) -> None:
    scenes = DrawnScenes(tmp_path, "detect", 4)
    for position in range(4):
        scenes.image_path(position).write_bytes(b"")
    loader = TrainingLoader(scenes, scenes_config("detect", num_workers=1))
    with pytest.raises(UnreadableImage) as failure:
        next(loader.epoch(0))
    loader.close()
    assert len(str(failure.value).splitlines()) == 1


def test_training_loader__a_mistake_in_a_worker_is_passed_on(tmp_path: Path) -> None:
    class Broken(DrawnScenes):
        def image_path(self, position: int) -> Path:
            if getattr(self, "found", None) and len(self.found) == len(self.sizes):
                raise KeyError("of this data set")
            return super().image_path(position)

    loader = TrainingLoader(Broken(tmp_path, "detect", 8), scenes_config("detect", num_workers=1))
    with pytest.raises(KeyError, match="of this data set"):
        next(loader.epoch(0))
    loader.close()


def test_training_loader__batches_without_any_box(tmp_path: Path) -> None:
    class Empty(DrawnScenes):
        def annotations(self, position: int) -> Annotations:
            found = super().annotations(position)
            return Annotations(found.boxes[:0], found.labels[:0], ())

    config = scenes_config("instance", keep_images_without_boxes=True)
    (batch,) = TrainingLoader(Empty(tmp_path, "instance", 4), config).epoch(0)
    assert batch.targets.counts == (0, 0, 0, 0)
    assert batch.targets.boxes.shape == (0, 4)
    assert batch.targets.masks is not None
    assert batch.targets.masks.shape == (0, 32, 5)


_TRAINING_PROCESS = """
import os, sys, time
from pathlib import Path
from tests.drawn_scenes import DrawnScenes, scenes_config
from training.data.sampling.images import UnreadableImage
from training.data.sampling.loading import TrainingLoader
import psutil

folder = Path(sys.argv[1])
loader = TrainingLoader(DrawnScenes(folder, "detect", 8), scenes_config("detect", num_workers=2))
epoch = loader.epoch(0)
next(epoch)
print(*(child.pid for child in psutil.Process().children()), flush=True)
time.sleep(60)
"""


def test_training_loader__left_open_does_not_keep_the_process(tmp_path: Path) -> None:
    script = _TRAINING_PROCESS.replace("time.sleep(60)", "raise RuntimeError")
    finished = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stderr.endswith("RuntimeError\n")
    assert not [pid for pid in finished.stdout.split() if psutil.pid_exists(int(pid))]


def test_training_loader__workers_end_with_a_killed_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _TRAINING_PROCESS, str(tmp_path)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert len(workers) == 2
    assert not alive


def test_training_loader__signals_while_workers_start_reach_the_process_alone(
    loaders: Loaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives at the whole group between fork and readiness ends no worker."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    fork = os.fork

    def fork_under_fire() -> int:
        pid = fork()
        if pid:
            os.kill(pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return pid

    monkeypatch.setattr(os, "fork", fork_under_fire)
    try:
        assert len(list(loaders(num_workers=2).epoch(0))) == 6
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received
