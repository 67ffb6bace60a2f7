import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.rtmdet import RTMDet, build_rtmdet
from model.weights import name_table
from tests.golden import golden_config
from training.config import EMAConfig
from training.optimisation.ema import WeightAverage, proportioned, weight_of_new

RECORDED_STEPS = (0, 1, 10, 100, 1000, 10000, 100000)


def filled(network: nn.Module, value: float) -> nn.Module:
    """A copy with every weight and statistic at `value`."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(value)
    return other


def small(kind: str) -> RTMDet:
    torch.manual_seed(0)
    return build_rtmdet(golden_config(kind))


def weights_taken(kind: str, config: EMAConfig, *, updates: int) -> dict[str, Tensor]:
    """By name, how much of a new value of 1 arrives in an average of 0 after `updates`."""
    network = small(kind)
    average = WeightAverage(filled(network, 0.0), config, total_steps=300_000)
    average.updates = updates
    average.update(filled(network, 1.0))
    return {
        name: value for name, value in average.network.state_dict().items() if value.numel() > 0
    }


def recorded(shared_folder: Path) -> dict[str, dict[str, float]]:
    path = shared_folder / "reference" / "golden" / "sched" / "ema.json"
    return json.loads(path.read_text())


@pytest.mark.parity
@pytest.mark.parametrize("step", RECORDED_STEPS)
def test_average__takes_the_recorded_share_of_new_values(shared_folder: Path, step: int) -> None:
    wanted = recorded(shared_folder)[str(step)]["measured_weight_of_new_param"]
    taken = weights_taken("det", EMAConfig(), updates=step)
    for name, value in taken.items():
        if value.is_floating_point():
            expected = torch.full_like(value, wanted)
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parity
@pytest.mark.parametrize("step", RECORDED_STEPS[1:])
def test_weight_of_new__is_the_recorded_formula(shared_folder: Path, step: int) -> None:
    wanted = recorded(shared_folder)[str(step)]["formula"]
    assert weight_of_new(step, EMAConfig()) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parity
def test_average__repeats_shared_tensors_as_recorded(shared_folder: Path) -> None:
    wanted = recorded(shared_folder)["shared_3_keys_step10000"]
    taken = weights_taken("det", EMAConfig(repeat_shared=True), updates=10_000)
    shared = taken["head.cls_towers.convs.0.weight"].flatten()[0].item()
    alone = taken["neck.reduce.0.conv.weight"].flatten()[0].item()
    assert shared == pytest.approx(wanted["measured"], rel=1e-6)
    assert alone == pytest.approx(wanted["momentum"], rel=1e-6)


def test_average__repeats_instance_towers_under_both_of_their_names() -> None:
    taken = weights_taken("ins", EMAConfig(repeat_shared=True), updates=10_000)
    once = weight_of_new(10_000, EMAConfig())
    for name, repeats in (
        ("head.cls_towers.convs.1.weight", 6),
        ("head.cls_towers.norms.2.0.weight", 2),
        ("head.cls_towers.norms.2.0.running_var", 2),
        ("head.kernel_towers.levels.0.0.conv.weight", 1),
    ):
        found = taken[name].flatten()[0].item()
        assert found == pytest.approx(1 - (1 - once) ** repeats, rel=1e-6), name


def test_average__repeats_nothing_unless_asked() -> None:
    taken = weights_taken("ins", EMAConfig(), updates=10_000)
    floats = [value.flatten() for value in taken.values() if value.is_floating_point()]
    assert torch.cat(floats).unique().numel() == 1


def test_average__first_update_copies_to_the_bit() -> None:
    network = small("det")
    average = WeightAverage(filled(network, 0.0), EMAConfig(), total_steps=1)
    average.update(network)
    for name, value in network.state_dict().items():
        assert torch.equal(average.network.state_dict()[name], value), name


def test_average__counters_are_the_latest() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2))
    average = WeightAverage(network, EMAConfig(), total_steps=100)
    for count in (3, 8):
        network[0].get_buffer("num_batches_tracked").fill_(count)
        average.update(network)
    assert average.network.state_dict()["0.num_batches_tracked"] == 8


def test_average__follows_what_an_optimizer_moves_and_what_is_loaded() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    average = WeightAverage(network, EMAConfig(momentum=1.0), total_steps=9)
    average.update(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    network(torch.randn(4, 2, 3, 3)).square().sum().backward()
    optimizer.step()
    average.update(network)
    for name, value in network.state_dict().items():
        assert torch.equal(average.network.state_dict()[name], value), name
    network.load_state_dict(filled(network, 2.0).state_dict())
    average.update(network)
    assert (average.network.get_buffer("1.running_var") == 2.0).all()


def test_average__is_a_network_of_its_own_in_evaluation_mode() -> None:
    network = small("det").train()
    average = WeightAverage(network, EMAConfig(), total_steps=1)
    assert not any(module.training for module in average.network.modules())
    assert not any(value.requires_grad for value in average.network.parameters())
    theirs = {value.data_ptr() for value in network.parameters()}
    assert not theirs & {value.data_ptr() for value in average.network.parameters()}
    assert network.training


def test_average__restored_continues_to_the_bit() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def follow(average: WeightAverage, seeds: range) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            for value in network.state_dict().values():
                value.copy_(torch.randn(value.shape) * 10)
            average.update(network)

    through = WeightAverage(network, EMAConfig(), total_steps=20)
    follow(through, range(10))
    kept = copy.deepcopy(through.state_dict())
    follow(through, range(10, 20))
    restored = WeightAverage(network, EMAConfig(), total_steps=20)
    restored.load_state_dict(kept)
    follow(restored, range(10, 20))
    assert restored.updates == through.updates == 20
    for name, value in through.network.state_dict().items():
        assert torch.equal(restored.network.state_dict()[name], value), name


def test_proportioned__published_horizon_of_the_published_run_changes_nothing() -> None:
    config = proportioned(EMAConfig(horizon_share=0.04), total_steps=125_000)
    assert (config.momentum, config.gamma) == pytest.approx((0.0002, 2000))


def test_proportioned__small_run_forgets_sooner() -> None:
    config = proportioned(EMAConfig(horizon_share=0.04), total_steps=5000)
    assert (config.momentum, config.gamma) == pytest.approx((1 / 200, 80))


def test_proportioned__run_of_a_few_steps_keeps_the_latest() -> None:
    config = proportioned(EMAConfig(horizon_share=0.04), total_steps=3)
    assert weight_of_new(2, config) == 1
    assert weight_of_new(2, replace(config, momentum=0.0)) < 0.1


def test_proportioned__published_average_without_a_horizon_is_given_one() -> None:
    config = proportioned(EMAConfig(momentum=0.0, horizon_share=0.04), total_steps=5000)
    assert (config.momentum, config.gamma) == (1 / 200, 1)


def test_proportioned__without_a_share_is_as_configured() -> None:
    assert proportioned(EMAConfig(), total_steps=10) == EMAConfig()


def test_names__shared_tensors_have_as_many_as_the_published_network() -> None:
    table = name_table(small("ins"))
    assert len(table["head.cls_towers.convs.0.weight"]) == 6
    assert len(table["head.cls_towers.norms.0.0.running_mean"]) == 2
