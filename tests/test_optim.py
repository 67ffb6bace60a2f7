import json
from pathlib import Path

import pytest
import torch

from model.classifier import build_classifier
from model.config import BACKBONES, VARIANTS
from model.rtmdet import build_rtmdet
from model.weights import name_table
from tests.golden import KINDS, golden_config
from training.config import OptimizerConfig
from training.optimisation.optim import build_optimizer, parameter_groups, scaled_lr


@pytest.mark.parity
def test_parameter_groups__are_the_recorded_ones(shared_folder: Path) -> None:
    path = shared_folder / "reference" / "golden" / "sched" / "param_groups_tiny.json"
    recorded = json.loads(path.read_text())
    network = build_rtmdet(VARIANTS["rtmdet-tiny"])
    table = name_table(network)
    # A tensor that levels share stands there under its first name alone.
    ours = [sorted(table[name][0] for name in group) for group in parameter_groups(network)]
    assert ours == [sorted(recorded["decayed"]), sorted(recorded["not_decayed"])]


@pytest.mark.parity
def test_optimizer__has_the_recorded_constants(shared_folder: Path) -> None:
    path = shared_folder / "reference" / "golden" / "sched" / "param_groups_tiny.json"
    recorded = json.loads(path.read_text())["defaults"]
    optimizer = build_optimizer(torch.nn.Conv2d(2, 2, 1), OptimizerConfig(), lr=0.004)
    decayed, not_decayed = optimizer.param_groups
    for constant in ("lr", "eps", "weight_decay", "amsgrad", "maximize"):
        assert decayed[constant] == recorded[constant]
    assert list(decayed["betas"]) == recorded["betas"]
    assert not_decayed["weight_decay"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_optimizer__holds_every_parameter_once(kind: str) -> None:
    network = build_rtmdet(golden_config(kind))
    optimizer = build_optimizer(network, OptimizerConfig(), lr=0.1)
    held = [id(value) for group in optimizer.param_groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in network.parameters())


def test_parameter_groups__linear_layer_of_a_classifier_decays() -> None:
    decayed, not_decayed = parameter_groups(build_classifier(BACKBONES["nano"], 3))
    assert "fc.weight" in decayed
    assert "fc.bias" in not_decayed


def test_optimizer__decays_weights_and_leaves_norms_and_biases() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = build_optimizer(network, OptimizerConfig(weight_decay=0.5), lr=0.1)
    for value in network.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    after = dict(network.named_parameters())
    torch.testing.assert_close(after["0.weight"], before["0.weight"] * 0.95)
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize(("batch", "lr"), [(256, 0.004), (32, 0.0005), (1024, 0.016)])
def test_scaled_lr__is_in_proportion_to_the_batch(batch: int, lr: float) -> None:
    assert scaled_lr(OptimizerConfig(), batch) == pytest.approx(lr)
