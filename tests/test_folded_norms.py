"""Networks whose norms were folded must go on from what they have learned."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.config import VARIANTS
from model.graph import Normalise
from model.rtmdet import RTMDet, build_rtmdet
from tests.exported_networks import exported_once, network_with_statistics
from tests.toy_training import ONE_RANK, ToyBatch, ToyWorkload
from training.folded_norms import folded_norms, restore_folded_norms
from training.initialisation import initialise

BATCH_SIZE = 4
NUM_BATCHES = 8


class Scenes(ToyWorkload):
    """Pictures of smooth noise for a detector."""

    def __init__(self, network: RTMDet) -> None:
        super().__init__(NUM_BATCHES)
        self.network = network

    def batches(self, epoch: int, first_batch: int) -> Iterator[ToyBatch]:
        for number in range(first_batch, self.batches_per_epoch):
            random = torch.Generator().manual_seed(number)
            coarse = torch.rand(BATCH_SIZE, 3, 8, 8, generator=random) * 255
            pixels = nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")
            yield ToyBatch(pixels.byte().permute(0, 2, 3, 1), torch.zeros(BATCH_SIZE))

    def pixels(self) -> Tensor:
        """All of them, as the network takes them."""
        return Normalise()(torch.cat([batch.images for batch in self.batches(0, 0)]))


@pytest.fixture(params=["rtmdet-nano", "rtmdet-tiny"])
def scenes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """A network out of an exported graph; tiny has shared towers, whose norms scale too."""
    graph = exported_once(request.param, tmp_path_factory) / "model.onnx"
    network = build_rtmdet(VARIANTS[request.param].with_classes(3))
    initialise(network, graph)
    return Scenes(network)


def scores(network: RTMDet, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([level.flatten(1) for level in network(pixels).logits], dim=1)


def test_restore_folded_norms__changes_no_output(scenes: Scenes) -> None:
    pixels = scenes.pixels()
    before = scores(scenes.network.eval(), pixels)
    (line,) = restore_folded_norms(scenes, ONE_RANK, batch_size=BATCH_SIZE)
    assert "are estimated from 32 training images" in line
    assert not folded_norms(scenes.network)
    after = scores(scenes.network.eval(), pixels)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.std()))


def test_restore_folded_norms__training_sees_what_evaluation_sees(scenes: Scenes) -> None:
    """Over the very images of the estimate both normalise by the same; folded norms do not."""
    pixels = scenes.pixels()
    evaluated = scores(scenes.network.eval(), pixels)

    def error() -> float:
        copy = deepcopy(scenes.network).train()
        return float((scores(copy, pixels) - evaluated).std() / evaluated.std())

    assert error() > 0.3
    restore_folded_norms(scenes, ONE_RANK, batch_size=BATCH_SIZE)
    assert error() < 1e-3


def test_restore_folded_norms__leaves_fresh_and_trained_norms_alone() -> None:
    for network in (build_rtmdet(VARIANTS["rtmdet-nano"]), network_with_statistics("rtmdet-nano")):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        assert restore_folded_norms(Scenes(network), ONE_RANK, batch_size=BATCH_SIZE) == []
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_restore_folded_norms__keeps_the_mode_of_the_network(scenes: Scenes) -> None:
    scenes.network.train()
    restore_folded_norms(scenes, ONE_RANK, batch_size=BATCH_SIZE)
    assert scenes.network.training


@pytest.mark.parity
def test_folded_norms__of_the_published_person_detector(shared_folder: Path) -> None:
    network = build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(1))
    initialise(network, shared_folder / "real" / "rtmdet_nano_person.pth")
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    assert folded_norms(network) == norms
