import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from model.rtmdet import build_rtmdet
from tests.batch_norm_rank import CHANNELS, SHARES, Network, batch, run, trained
from tests.golden import KINDS, golden_config
from training.optimisation.batch_norm import SynchronisedBatchNorm2d, synchronise_batch_norms

Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What two processes have after training on their shares of the batch."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(run, (str(folder),), nprocs=len(SHARES))
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SHARES))]


@pytest.fixture(scope="module")
def alone() -> Results:
    """What one process has after training on the whole batch, with ordinary norms."""
    return trained(Network().train(), *batch())


@pytest.mark.parametrize("name", ["output", "images"])
def test_ranks__outputs_and_gradients_are_those_of_the_whole_batch(
    ranks: list[Results], alone: Results, name: str
) -> None:
    together = torch.cat([results[name] for results in ranks])
    torch.testing.assert_close(together, alone[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", dict(Network().named_parameters()))
def test_ranks__gradients_of_parameters_sum_to_those_of_the_whole_batch(
    ranks: list[Results], alone: Results, name: str
) -> None:
    total = sum(results[f"grad {name}"] for results in ranks)
    torch.testing.assert_close(total, alone[f"grad {name}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", dict(Network().named_buffers()))
def test_ranks__statistics_are_those_of_the_whole_batch(
    ranks: list[Results], alone: Results, name: str
) -> None:
    for results in ranks:
        torch.testing.assert_close(results[name], alone[name], rtol=1e-5, atol=1e-6)
    assert torch.equal(ranks[0][name], ranks[1][name])


@pytest.mark.parametrize("kind", KINDS)
def test_synchronise__replaces_every_norm_and_keeps_names_and_tensors(kind: str) -> None:
    network = build_rtmdet(golden_config(kind))
    before = dict(network.state_dict(keep_vars=True))
    momenta = [norm.momentum for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)]
    after = synchronise_batch_norms(network)
    assert after is network
    norms = [norm for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert {type(norm) for norm in norms} == {SynchronisedBatchNorm2d}
    assert [norm.momentum for norm in norms] == momenta
    found = network.state_dict(keep_vars=True)
    assert list(found) == list(before)
    assert all(found[name] is tensor for name, tensor in before.items())


def test_synchronise__keeps_the_mode() -> None:
    assert synchronise_batch_norms(Network().eval()).norms[0].training is False
    assert synchronise_batch_norms(Network().train()).norms[0].training is True


def test_norm__of_a_process_alone_is_an_ordinary_one() -> None:
    ours = trained(synchronise_batch_norms(Network().train()), *batch())
    theirs = trained(Network().train(), *batch())
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_norm__in_evaluation_is_an_ordinary_one() -> None:
    images = torch.randn(1, CHANNELS, 2, 2)
    with torch.no_grad():
        wanted = Network().eval()(images)
        assert torch.equal(synchronise_batch_norms(Network().eval())(images), wanted)
