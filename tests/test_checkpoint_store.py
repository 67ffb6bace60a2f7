import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import PROJECT
from training.checkpoint import (
    CheckpointFailed,
    CheckpointStore,
    DamagedCheckpoint,
    TrainingState,
    read_checkpoint,
    write_durably,
)
from training.state.optimizer_state import (
    ForeignOptimizerState,
    OptimizerState,
    optimizer_state,
    restore_optimizer,
)
from training.state.random_state import gather_random_states, random_state, restore_random_state

FILES = (
    "average.safetensors", "optimizer.safetensors", "random.safetensors", "state.json",
    "weights.safetensors",
)  # fmt: skip


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "norm.num_batches_tracked": torch.tensor(seed),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "empty": torch.empty(0, 4),
    }


def state(step: int, **changes: object) -> TrainingState:
    plain = TrainingState(
        step=step, epoch=2, batch=7, weights=tensors(step), average=tensors(step + 1),
        average_updates=step, optimizer=OptimizerState(tensors=tensors(step + 2), groups=[]),
        random=[random_state()], best=0.1 + 0.2, rollbacks=1, extra={"classes": ["a", "b"]},
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def silent(line: str) -> None:
    raise AssertionError(f"an unexpected warning: {line}")


def store(folder: Path, keep: int = 2, warn: Callable[[str], None] = silent) -> CheckpointStore:
    return CheckpointStore(folder, keep, warn=warn)


def loaded(checkpoints: CheckpointStore) -> TrainingState:
    latest = checkpoints.load_latest()
    assert latest is not None
    return latest


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
        for name in ours
    )


# ------------------------------------------------------------------------------------- round trip


def test_checkpoint_store__gives_back_every_tensor(tmp_path: Path) -> None:
    saved = state(12)
    store(tmp_path).save(saved)
    back = loaded(store(tmp_path))
    assert equal(dict(back.weights), dict(saved.weights))
    assert equal(dict(back.average), dict(saved.average))
    assert equal(dict(back.optimizer.tensors), dict(saved.optimizer.tensors))
    assert len(back.random) == 1
    assert equal(back.random[0], saved.random[0])


def test_checkpoint_store__gives_back_every_value(tmp_path: Path) -> None:
    saved = state(12)
    store(tmp_path).save(saved)
    back = loaded(store(tmp_path))
    for name in ("step", "epoch", "batch", "average_updates", "best", "rollbacks", "versions"):
        assert getattr(back, name) == getattr(saved, name), name
    assert back.extra == {"classes": ["a", "b"]}


def test_checkpoint_store__takes_tensors_of_any_strides(tmp_path: Path) -> None:
    strided = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    store(tmp_path).save(state(1, weights={"w": strided, "t": torch.ones(3, 4).t()}))
    assert torch.equal(loaded(store(tmp_path)).weights["w"], strided)


def test_checkpoint_store__has_nothing_in_a_fresh_folder(tmp_path: Path) -> None:
    assert store(tmp_path / "checkpoints").load_latest() is None


def test_checkpoint_store__writes_no_pickle(tmp_path: Path) -> None:
    folder = store(tmp_path).save(state(3))
    assert names(folder) == sorted(FILES)
    json.loads((folder / "state.json").read_text())


# --------------------------------------------------------------------------------- what is kept


def test_checkpoint_store__keeps_the_newest(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(state(step))
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000003"]


def test_checkpoint_store__never_takes_a_half_removed_one_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the process were killed when it begins to remove.
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    checkpoints = store(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.save(state(step))
    assert [path.name for path in checkpoints.saved()] == ["step-00000002"]


def test_checkpoint_store__saves_a_step_twice_without_touching_the_first(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep=2)
    first = checkpoints.save(state(5))
    second = checkpoints.save(state(5, batch=9))
    assert first != second
    assert read_checkpoint(first).batch == 7
    assert loaded(checkpoints).batch == 9


def test_checkpoint_store__removes_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep=2)
    for step in (8, 9):
        checkpoints.save(state(step))
    checkpoints.save(state(7))
    assert names(tmp_path) == ["latest", "step-00000007"]


def test_checkpoint_store__refuses_to_keep_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        CheckpointStore(tmp_path, keep=0)


# ---------------------------------------------------------------------------------------- damage


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, os.unlink])
@pytest.mark.parametrize("name", FILES)
def test_checkpoint_store__takes_the_one_before_a_damaged_one(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    lines: list[str] = []
    checkpoints = store(tmp_path, warn=lines.append)
    checkpoints.save(state(1))
    harm(checkpoints.save(state(2)) / name)
    assert loaded(checkpoints).step == 1
    assert len(lines) == 1
    assert lines[0].startswith("the checkpoint step-00000002 is damaged")


def test_checkpoint_store__does_without_the_pointer(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for step in (1, 2):
        checkpoints.save(state(step))
    (tmp_path / "latest").write_bytes(b"\xff\xfe nonsense")
    assert loaded(checkpoints).step == 2


def test_checkpoint_store__notices_another_number_in_the_state(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = store(tmp_path).save(state(41))
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(text.replace('"step": 41', '"step": 14'))
    with pytest.raises(DamagedCheckpoint):
        store(tmp_path, warn=lines.append).load_latest()
    assert "state.json has changed" in lines[0]


def test_checkpoint_store__says_when_the_libraries_are_others(tmp_path: Path) -> None:
    lines: list[str] = []
    versions = {**state(1).versions, "torch": "1.0"}
    store(tmp_path).save(state(1, versions=versions))
    assert loaded(store(tmp_path, warn=lines.append)).step == 1
    assert len(lines) == 1
    assert lines[0].startswith("saved with torch 1.0 (now ")


def test_checkpoint_store__refuses_when_all_are_damaged(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, warn=lambda line: None)
    cut(checkpoints.save(state(1)) / "weights.safetensors")
    with pytest.raises(DamagedCheckpoint, match="another folder"):
        checkpoints.load_latest()


def test_checkpoint_store__refuses_another_layout(tmp_path: Path) -> None:
    folder = store(tmp_path).save(state(1))
    content = json.loads((folder / "state.json").read_text())
    del content["sha256"]
    content["format"] = 99
    from training.checkpoint import _digest  # what a later version would have written

    (folder / "state.json").write_text(json.dumps({**content, "sha256": _digest(content)}))
    with pytest.raises(DamagedCheckpoint, match="layout 99"):
        read_checkpoint(folder)


def test_checkpoint_store__ignores_and_then_removes_what_a_kill_left(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    whole = checkpoints.save(state(1))
    shutil.copytree(whole, tmp_path / "step-00000002.part")
    (tmp_path / "latest.part").write_text("step-0000")
    assert loaded(checkpoints).step == 1
    checkpoints.save(state(2))
    assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]


def test_checkpoint_store__always_has_a_whole_checkpoint_after_kills(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.saving_until_killed", str(tmp_path), "15"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(rows) == 15
    for announced, step, whole in rows:
        # One more may have been saved than could be announced.
        assert announced <= step <= announced + 1
        assert whole


# ------------------------------------------------------------------------------------- full disks


class FullDisk:
    """Writes until `num_bytes` have been written, then half of a file and an error."""

    def __init__(self, num_bytes: int, error: int) -> None:
        self.left = num_bytes
        self.error = error

    def __call__(self, path: Path, content: bytes) -> None:
        if len(content) > self.left:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(self.error, os.strerror(self.error), str(path))
        self.left -= len(content)
        write_durably(path, content)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("num_bytes", [0, 700, 3500, 9000])
def test_checkpoint_store__keeps_the_last_one_on_a_full_disk(
    tmp_path: Path, num_bytes: int, error: int
) -> None:
    store(tmp_path).save(state(1))
    full = CheckpointStore(tmp_path, 1, write=FullDisk(num_bytes, error))
    with pytest.raises(CheckpointFailed) as failure:
        full.save(state(2))
    assert failure.value.errno == error
    assert str(failure.value).startswith("no checkpoint could be saved in")
    assert "step-00000001 is kept" in str(failure.value)
    assert "--resume" in str(failure.value)
    assert loaded(store(tmp_path)).step == 1
    assert names(tmp_path) == ["latest", "step-00000001"]


def test_checkpoint_store__looks_at_the_free_space_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    written: list[Path] = []
    checkpoints = CheckpointStore(tmp_path, 1, write=lambda path, content: written.append(path))
    with pytest.raises(CheckpointFailed, match="Free some space") as failure:
        checkpoints.save(state(1))
    assert failure.value.errno == errno.ENOSPC
    assert written == []


def test_checkpoint_store__survives_a_limit_of_the_system_on_files(tmp_path: Path) -> None:
    """The kernel itself refuses to write on, in the middle of a file."""
    checkpoints = store(tmp_path)
    checkpoints.save(state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = state(2, weights={"w": torch.zeros(50_000)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointFailed, match="ulimit"):
            checkpoints.save(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert loaded(checkpoints).step == 1
    assert names(tmp_path) == ["latest", "step-00000001"]


# -------------------------------------------------------------------------------- the optimizer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    return layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def adamw(layers: nn.Module, decay: float = 0.05) -> torch.optim.AdamW:
    decayed = [p for p in layers.parameters() if p.dim() > 1]
    others = [p for p in layers.parameters() if p.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
        lr=0.01,
    )


def step(layers: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    layers(images).square().mean().backward()
    optimizer.step()


def test_optimizer_state__continues_to_the_bit(tmp_path: Path) -> None:
    ours = network()
    optimizer = adamw(ours)
    for seed in range(3):
        step(ours, optimizer, seed)
    saved = state(3, weights=ours.state_dict(), optimizer=optimizer_state(optimizer, ours))
    store(tmp_path).save(saved)
    for seed in range(3, 6):
        step(ours, optimizer, seed)

    back = loaded(store(tmp_path))
    again = network()
    again.load_state_dict(dict(back.weights))
    resumed = adamw(again)
    restore_optimizer(resumed, again, back.optimizer)
    for seed in range(3, 6):
        step(again, resumed, seed)
    assert equal(again.state_dict(), ours.state_dict())


def test_restore_optimizer__leaves_changed_settings_as_they_are() -> None:
    ours = network()
    optimizer = adamw(ours)
    step(ours, optimizer, 0)
    saved = optimizer_state(optimizer, ours)
    changed = adamw(ours, decay=0.5)
    restore_optimizer(changed, ours, saved)
    assert [group["weight_decay"] for group in changed.param_groups] == [0.5, 0.0]
    assert len(changed.state) == len(optimizer.state)


def test_restore_optimizer__keeps_the_strides_of_the_parameters() -> None:
    ours = network()
    optimizer = adamw(ours)
    step(ours, optimizer, 0)
    saved = optimizer_state(optimizer, ours)
    flat = OptimizerState({k: v.contiguous() for k, v in saved.tensors.items()}, saved.groups)
    restore_optimizer(optimizer, ours, flat)
    weight = next(ours.parameters())
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()


def test_optimizer_state__is_empty_before_the_first_step() -> None:
    ours = network()
    saved = optimizer_state(adamw(ours), ours)
    assert saved.tensors == {}
    restore_optimizer(adamw(ours), ours, saved)


def test_restore_optimizer__names_a_parameter_that_differs() -> None:
    ours = network()
    theirs = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Identity(), nn.Conv2d(8, 4, 1))
    saved = optimizer_state(adamw(theirs), theirs)
    with pytest.raises(ForeignOptimizerState, match=r"'1\.weight'"):
        restore_optimizer(adamw(ours), ours, saved)


# -------------------------------------------------------------------------------- random states


def draws() -> list[float]:
    return [
        random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()),
        float(torch.rand(())),
    ]  # fmt: skip


@pytest.mark.parametrize("already_drawn", [0, 1])
def test_random_state__goes_on_where_it_was_taken(already_drawn: int) -> None:
    # An odd number of normal draws leaves one in each generator's pocket.
    for _ in range(already_drawn):
        draws()
    taken = random_state()
    expected = [draws() for _ in range(3)]
    restore_random_state(taken)
    assert [draws() for _ in range(3)] == expected


def test_random_state__has_one_size() -> None:
    before = random_state()
    draws()
    after = random_state()
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert gather_random_states()[0].keys() == after.keys()
