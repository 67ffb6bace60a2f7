"""Saves checkpoints in a process that is killed at random moments, and loads after each kill.

python -m tests.saving_until_killed FOLDER KILLS    prints, per kill: announced loaded whole
"""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from training.checkpoint import CheckpointStore, TrainingState
from training.state.optimizer_state import OptimizerState


def state(step: int) -> TrainingState:
    """A state whose every tensor tells its step."""
    tensors = {f"layer{i}": torch.full((64, 512), float(step)) for i in range(4)}
    return TrainingState(
        step=step, epoch=0, batch=step, weights=tensors, average=tensors, average_updates=step,
        optimizer=OptimizerState(tensors=tensors, groups=[]), random=[],
    )  # fmt: skip


def save_for_ever(folder: Path, pipe: int) -> None:
    store = CheckpointStore(folder, keep=2)
    last = store.load_latest()
    step = last.step if last else 0
    while True:
        step += 1
        store.save(state(step))
        os.write(pipe, step.to_bytes(8, "little"))


def kills(folder: Path, number: int) -> Iterator[tuple[int, int, bool]]:
    """After each kill: the last step said to be saved, the one loaded, whether it is of a piece."""
    draws = random.Random(0)
    announced = 0
    for _ in range(number):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            save_for_ever(folder, writing)
        os.close(writing)
        first = os.read(reading, 8)
        time.sleep(draws.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as rest:
            content = first + rest.read()
        announced = int.from_bytes(content[-8:], "little")
        complaints: list[str] = []
        store = CheckpointStore(folder, keep=2, warn=complaints.append)
        loaded = store.load_latest()
        assert loaded is not None
        values = {
            float(value)
            for named in (loaded.weights, loaded.average, loaded.optimizer.tensors)
            for tensor in named.values()
            for value in tensor.unique()
        }
        yield announced, loaded.step, values == {float(loaded.step)} and not complaints


if __name__ == "__main__":
    for line in kills(Path(sys.argv[1]), int(sys.argv[2])):
        print(*map(int, line))  # noqa: T201 - what the test reads
