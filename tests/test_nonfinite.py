import json
import math
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from training.run.nonfinite import (
    NonFiniteStep,
    batch_tensors,
    find_nonfinite,
    nonfinite_error,
    save_nonfinite,
)
from training.targets import DetectionBatch, Targets


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def after_backward(scale: float = 1.0) -> nn.Sequential:
    layers = network()
    (layers(torch.ones(2, 3)).mean() * scale).backward()
    return layers


def found(layers: nn.Module) -> NonFiniteStep:
    return find_nonfinite(
        layers, {"loss_cls": torch.tensor(1.5), "loss_box": torch.tensor(math.nan)}, step=12,
        epoch=1,
    )  # fmt: skip


def test_find_nonfinite__names_what_is_wrong() -> None:
    layers = after_backward()
    gradient = layers.get_parameter("2.weight").grad
    assert gradient is not None
    gradient[0, 3] = math.inf
    layers.get_buffer("1.running_var").fill_(math.nan)
    problem = found(layers)
    assert problem.gradients == ("2.weight",)
    assert problem.weights == ("1.running_var",)
    assert problem.summary == (
        "not finite in step 12 (epoch 2): loss_box is nan; weights before the step: 1.running_var; "
        "gradients: 2.weight"
    )


def test_find_nonfinite__names_a_few_of_many() -> None:
    layers = after_backward(scale=math.nan)
    assert found(layers).summary.endswith("gradients: 0.weight, 0.bias, 1.weight and 3 more")


def test_save_nonfinite__keeps_the_batch(tmp_path: Path) -> None:
    batch = DetectionBatch(
        images=torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8),
        targets=Targets(boxes=torch.rand(3, 4), labels=torch.tensor([0, 2, 1]), counts=(1, 2)),
    )
    layers = after_backward(scale=math.nan)
    place = save_nonfinite(tmp_path / "problems", found(layers), batch_tensors(batch))
    assert place == tmp_path / "problems" / "step-00000012-rank0"
    kept = load_file(place / "batch.safetensors")
    assert set(kept) == {"images", "boxes", "labels", "counts"}
    assert torch.equal(kept["images"], batch.images)
    assert torch.equal(kept["boxes"], batch.targets.boxes)
    assert kept["counts"].tolist() == [1, 2]
    said = json.loads((place / "problem.json").read_text())
    assert said["losses"] == {"loss_cls": "1.5", "loss_box": "nan"}
    assert len(said["gradients"]) == 6


def test_save_nonfinite__replaces_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    layers = after_backward(scale=math.nan)
    for value in (1.0, 2.0):
        place = save_nonfinite(tmp_path, found(layers), {"images": torch.tensor([value])})
    assert load_file(place / "batch.safetensors")["images"].item() == 2.0
    assert len(list(tmp_path.iterdir())) == 1


def test_save_nonfinite__a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    """The trainer takes it lightly; the kernel refuses to write on here."""
    problem, batch = found(after_backward()), {"images": torch.zeros(50_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            save_nonfinite(tmp_path, problem, batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("saved", [Path("problems/step-00000012-rank0"), None])
def test_nonfinite_error__says_what_to_do_in_one_line(saved: Path | None) -> None:
    layers = after_backward()
    text = str(nonfinite_error(found(layers), saved))
    assert "loss_box is nan" in text
    assert (str(saved) if saved else "could not be saved") in text
    assert "runtime.on_nonfinite=rollback" in text
    assert "\n" not in text
