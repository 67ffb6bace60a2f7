"""The criterion against a recorded training step, over ranks, and with nothing to be found."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.heads.outputs import HeadOutputs
from model.rtmdet import RTMDet
from model.weights import name_table
from tests.golden import INPUT_SIZE, KINDS, golden_arrays, golden_config, golden_network
from training.config import LossConfig
from training.criterion import Criterion, LossTerms, box_targets
from training.matching import Positives, by_level, match
from training.targets import MASK_OFFSET, MASK_STRIDE, Targets

CASES = ("A", "B", "C")
LOSS = LossConfig()
#: Images of a recorded batch.
NUM_IMAGES = 2


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """As at the recording."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def recorded_losses(folder: Path, kind: str, case: str) -> dict[str, Any]:
    path = folder / "reference" / "golden" / kind / "losses.json"
    return json.loads(path.read_text())[case]


def recorded_targets(train: dict[str, NDArray], case: str) -> Targets:
    """The ground truth of a recorded case, packed as batches are."""
    names = [f"{case}_img{image}_gt" for image in range(NUM_IMAGES)]
    boxes = [torch.from_numpy(train[f"{name}_bboxes"]) for name in names]
    centres = masks = None
    if f"{names[0]}_masks_shape" in train:
        drawn = np.concatenate([recorded_masks(train, name) for name in names])
        centres = torch.tensor([mass_centre(mask) for mask in drawn]).reshape(-1, 2)
        sampled = drawn[:, MASK_OFFSET::MASK_STRIDE, MASK_OFFSET::MASK_STRIDE]
        masks = torch.from_numpy(np.packbits(sampled, axis=-1))
    return Targets(
        boxes=torch.cat(boxes),
        labels=torch.cat([torch.from_numpy(train[f"{name}_labels"]) for name in names]),
        counts=tuple(len(each) for each in boxes),
        centres=centres,
        masks=masks,
    )


def recorded_masks(train: dict[str, NDArray], name: str) -> NDArray[np.uint8]:
    count, height, width = train[f"{name}_masks_shape"].tolist()
    if not count:
        return np.zeros((0, *INPUT_SIZE), np.uint8)
    bits = np.unpackbits(train[f"{name}_masks_packed"], axis=1)[:, : height * width]
    return bits.reshape(count, height, width)


def mass_centre(mask: NDArray[np.uint8]) -> tuple[float, float]:
    rows, columns = mask.nonzero()
    return float(columns.mean()), float(rows.mean())


@lru_cache
def recorded_step(folder: Path, kind: str) -> tuple[RTMDet, HeadOutputs]:
    """The recorded network and its outputs, with the graph that leads there."""
    network = golden_network(folder, kind)
    return network, network(torch.from_numpy(golden_arrays(folder, kind, "forward")["input"]))


def assert_recorded(terms: LossTerms, recorded: dict[str, Any]) -> None:
    """Every loss within a ten-thousandth."""
    losses = recorded["losses"]
    np.testing.assert_allclose(terms.cls.detach(), losses["loss_cls"], rtol=1e-4)
    np.testing.assert_allclose(terms.box.detach(), losses["loss_bbox"], rtol=1e-4)
    assert (terms.mask is None) == ("loss_mask" not in losses)
    if terms.mask is not None:
        np.testing.assert_allclose(terms.mask.detach(), losses["loss_mask"], rtol=1e-4)
    assert terms.num_positives == sum(recorded["num_pos"])


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_criterion__losses_are_the_recorded_ones(shared_folder: Path, kind: str, case: str) -> None:
    network, outputs = recorded_step(shared_folder, kind)
    recorded = recorded_losses(shared_folder, kind, case)
    targets = recorded_targets(golden_arrays(shared_folder, kind, "train"), case)
    with torch.no_grad():
        terms = Criterion(network.config, LOSS)(outputs, targets)
    assert_recorded(terms, recorded)
    assert terms.total.item() == pytest.approx(recorded["total"], rel=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_criterion__losses_with_batch_statistics_are_the_recorded_ones(
    shared_folder: Path, kind: str
) -> None:
    network = golden_network(shared_folder, kind).train()
    images = golden_arrays(shared_folder, kind, "forward")["input"]
    with torch.no_grad():
        outputs = network(torch.from_numpy(images))
        targets = recorded_targets(golden_arrays(shared_folder, kind, "train"), "A")
        terms = Criterion(network.config, LOSS)(outputs, targets)
    assert_recorded(terms, recorded_losses(shared_folder, kind, "A_train_mode_bn"))


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_criterion__gradients_are_the_recorded_ones(
    shared_folder: Path, kind: str, case: str
) -> None:
    network, outputs = recorded_step(shared_folder, kind)
    train = golden_arrays(shared_folder, kind, "train")
    total = Criterion(network.config, LOSS)(outputs, recorded_targets(train, case)).total
    parameters = dict(network.named_parameters())
    # Fails where one has no part in the loss.
    grads = torch.autograd.grad(total, tuple(parameters.values()), retain_graph=True)
    norms = recorded_losses(shared_folder, kind, case)["grad_l2"]
    names = name_table(network)
    compared = set()
    for name, grad in zip(parameters, grads, strict=True):
        # A tensor that the published network names more than once is listed once.
        for published in norms.keys() & names[name]:
            # None: without a mask to draw, kernels have no gradient there; ours is zero.
            norm = pytest.approx(norms[published] or 0, rel=1e-3, abs=1e-9)
            assert grad.double().norm().item() == norm, published
            compared.add(published)
        for published in names[name]:
            if case == "A" and f"A_grad::{published}" in train:
                gradient = train[f"A_grad::{published}"]
                np.testing.assert_allclose(grad, gradient, atol=1e-3 * np.abs(gradient).max())
                compared.add(f"A_grad::{published}")
    wanted = set(norms)
    if case == "A":
        wanted |= {name for name in train if name.startswith("A_grad::")}
    assert compared == wanted


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_match__assignments_are_the_recorded_ones(
    shared_folder: Path, kind: str, case: str
) -> None:
    _, outputs = recorded_step(shared_folder, kind)
    train = golden_arrays(shared_folder, kind, "train")
    targets = recorded_targets(train, case)
    positives = match(outputs, targets, topk=LOSS.topk)
    first_row = 0
    for image, count in enumerate(targets.counts):
        inds = torch.zeros(len(train[f"{case}_img{image}_assigned_gt_inds"]), dtype=torch.long)
        own = positives.images == image
        inds[positives.priors[own]] = positives.instances[own] - first_row + 1
        assert inds.tolist() == train[f"{case}_img{image}_assigned_gt_inds"].tolist()
        assert positives.counts[image] == own.sum()
        first_row += count


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_by_level__targets_are_the_recorded_ones(shared_folder: Path, kind: str, case: str) -> None:
    _, outputs = recorded_step(shared_folder, kind)
    train = golden_arrays(shared_folder, kind, "train")
    targets = recorded_targets(train, case)
    positives = match(outputs, targets, topk=LOSS.topk)
    boxes = box_targets(targets, positives)
    for level, place in enumerate(by_level(positives, outputs)):
        n, classes, height, width = outputs.logits[level].shape
        index = place.images, place.map_rows, place.map_columns
        found = {
            "labels": torch.full((n, height, width), classes),
            "assign_metrics": torch.zeros(n, height, width),
            "bbox_targets": torch.zeros(n, height, width, boxes.shape[1]),
            # No prior is left out.
            "label_weights": torch.ones(n, height, width),
        }
        found["labels"][index] = targets.labels[positives.instances[place.rows]]
        found["assign_metrics"][index] = positives.overlaps[place.rows]
        found["bbox_targets"][index] = boxes[place.rows]
        for name, values in found.items():
            np.testing.assert_allclose(
                values.flatten(1, 2), train[f"{case}_{name}_{level}"], rtol=2e-5, atol=1e-5
            )


SMALL_INPUT = (64, 96)
COUNTS = (5, 0, 3, 0)


def random_outputs(kind: str, num_images: int, seed: int = 0) -> HeadOutputs:
    """Predictions as leaves, so that gradients can be looked at."""
    random = torch.Generator().manual_seed(seed)

    def maps(channels: int, scale: float = 1.0, shift: float = 0.0) -> list[Tensor]:
        return [
            (
                shift * stride**0.5
                + scale
                * torch.randn(
                    num_images,
                    channels,
                    SMALL_INPUT[0] // stride,
                    SMALL_INPUT[1] // stride,
                    generator=random,
                )
            ).requires_grad_()
            for stride in (8, 16, 32)
        ]

    return HeadOutputs(
        logits=maps(5, 2.0),
        distances=maps(4, 3.0, 4.0),
        angles=maps(1) if kind == "rot" else [],
        kernels=maps(169, 0.3) if kind == "ins" else [],
        mask_features=maps(8)[0] if kind == "ins" else None,
    )


def random_targets(kind: str, counts: tuple[int, ...], seed: int = 1) -> Targets:
    random = torch.Generator().manual_seed(seed)
    count = sum(counts)
    height, width = SMALL_INPUT
    centres = torch.rand(count, 2, generator=random) * torch.tensor([width, height])
    sides = 12 + 30 * torch.rand(count, 2, generator=random)
    upright = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)
    turned = torch.cat((centres, sides, torch.rand(count, 1, generator=random)), dim=1)
    packed = torch.randint(
        0, 256, (count, height // 4, width // 32), generator=random, dtype=torch.uint8
    )
    return Targets(
        boxes=turned if kind == "rot" else upright,
        labels=torch.randint(0, 5, (count,), generator=random),
        counts=counts,
        centres=centres if kind == "ins" else None,
        masks=packed if kind == "ins" else None,
    )


def leaves(outputs: HeadOutputs) -> list[Tensor]:
    features = [] if outputs.mask_features is None else [outputs.mask_features]
    return [*outputs.logits, *outputs.distances, *outputs.angles, *outputs.kernels, *features]


def images_of(outputs: HeadOutputs, images: slice) -> HeadOutputs:
    def part(levels: list[Tensor]) -> list[Tensor]:
        return [level[images].detach().requires_grad_() for level in levels]

    features = outputs.mask_features
    return HeadOutputs(
        part(outputs.logits),
        part(outputs.distances),
        part(outputs.angles),
        part(outputs.kernels),
        None if features is None else part([features])[0],
    )


def targets_of(targets: Targets, images: slice) -> Targets:
    chosen = list(targets)[images]
    return Targets(
        boxes=torch.cat([each.boxes for each in chosen]),
        labels=torch.cat([each.labels for each in chosen]),
        counts=targets.counts[images],
        centres=None if targets.centres is None else torch.cat([each.centres for each in chosen]),
        masks=None if targets.masks is None else torch.cat([each.masks for each in chosen]),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", [2, 1, 3])
def test_criterion__mean_of_the_ranks_gradients_is_that_of_the_whole_batch(
    kind: str, split: int
) -> None:
    """Also where a rank has no box, as the second does when the split is after three images."""
    outputs, targets = random_outputs(kind, len(COUNTS)), random_targets(kind, COUNTS)
    config = golden_config(kind)
    Criterion(config, LOSS)(outputs, targets).total.backward()
    ranks = [
        (images_of(outputs, images), targets_of(targets, images))
        for images in (slice(0, split), slice(split, None))
    ]
    sums: list[Tensor] = []

    def collect(own: Tensor) -> Tensor:
        sums.append(own)
        return own

    for part in ranks:
        Criterion(config, LOSS, sum_over_ranks=collect)(*part)
    total = torch.stack(sums).sum(dim=0)
    criterion = Criterion(config, LOSS, sum_over_ranks=lambda _: total, num_ranks=2)
    for part in ranks:
        # The ranks' gradients are averaged.
        (criterion(*part).total / 2).backward()
    for whole, *parts in zip(leaves(outputs), *(leaves(part) for part, _ in ranks), strict=True):
        assert whole.grad is not None
        gradients = torch.cat([part.grad for part in parts])
        torch.testing.assert_close(gradients, whole.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(0, 0), (3, 0)])
def test_criterion__every_prediction_gets_a_finite_gradient(
    kind: str, counts: tuple[int, ...]
) -> None:
    outputs = random_outputs(kind, 2)
    terms = Criterion(golden_config(kind), LOSS)(outputs, random_targets(kind, counts))
    terms.total.backward()
    for leaf in leaves(outputs):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_criterion__a_batch_without_boxes_learns_background_alone(kind: str) -> None:
    outputs = random_outputs(kind, 2)
    terms = Criterion(golden_config(kind), LOSS)(outputs, random_targets(kind, (0, 0)))
    terms.total.backward()
    assert terms.num_positives == 0
    assert terms.box.tolist() == [0, 0, 0]
    assert all(logits.grad is not None and logits.grad.any() for logits in outputs.logits)
    others = leaves(outputs)[len(outputs.logits) :]
    assert not any(leaf.grad is not None and leaf.grad.any() for leaf in others)


@pytest.mark.parametrize("kind", KINDS)
def test_criterion__is_the_same_under_autocast(kind: str) -> None:
    outputs, targets = random_outputs(kind, 2), random_targets(kind, (4, 2))
    criterion = Criterion(golden_config(kind), LOSS)
    expected = criterion(outputs, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = criterion(outputs, targets)
    assert torch.equal(found.total, expected.total)
    assert found.total.dtype == torch.float32


def test_criterion__runs_outside_autocast() -> None:
    enabled = []

    def look(sums: Tensor) -> Tensor:
        enabled.append(torch.is_autocast_enabled("cpu"))
        return sums

    criterion = Criterion(golden_config("det"), LOSS, sum_over_ranks=look)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        criterion(random_outputs("det", 1), random_targets("det", (2,)))
    assert enabled == [False]


@pytest.mark.parametrize("kind", KINDS)
def test_criterion__does_not_depend_on_the_layout_in_memory(kind: str) -> None:
    outputs, targets = random_outputs(kind, 2), random_targets(kind, (4, 2))

    def channels_last(levels: list[Tensor]) -> list[Tensor]:
        return [level.contiguous(memory_format=torch.channels_last) for level in levels]

    features = outputs.mask_features
    moved = HeadOutputs(
        channels_last(outputs.logits),
        channels_last(outputs.distances),
        channels_last(outputs.angles),
        channels_last(outputs.kernels),
        None if features is None else channels_last([features])[0],
    )
    criterion = Criterion(golden_config(kind), LOSS)
    torch.testing.assert_close(criterion(moved, targets).total, criterion(outputs, targets).total)


def test_criterion__weights_scale_their_terms() -> None:
    outputs, targets = random_outputs("ins", 2), random_targets("ins", (4, 2))
    plain = Criterion(golden_config("ins"), LOSS)(outputs, targets)
    heavy = replace(LOSS, box_weight=6.0, mask_weight=10.0)
    weighted = Criterion(golden_config("ins"), heavy)(outputs, targets)
    assert plain.mask is not None
    assert weighted.mask is not None
    torch.testing.assert_close(weighted.cls, plain.cls)
    torch.testing.assert_close(weighted.box, 3 * plain.box)
    torch.testing.assert_close(weighted.mask, 5 * plain.mask)


def test_criterion__masks_are_drawn_for_the_best_positives_up_to_the_limit() -> None:
    outputs, targets = random_outputs("ins", 2), random_targets("ins", (5, 4))
    positives = match(outputs, targets, topk=LOSS.topk)
    assert min(positives.counts) > 2
    limited = replace(LOSS, max_masks_per_image=2)
    terms = Criterion(golden_config("ins"), limited)(outputs, targets)
    assert terms.mask is not None
    terms.mask.backward()
    drawn = torch.cat(
        [
            (maps.grad != 0).any(dim=1).flatten(1)
            for maps in outputs.kernels
            if maps.grad is not None
        ],
        dim=1,
    )
    assert [row.nonzero().flatten().tolist() for row in drawn] == best_priors(positives, 2)


def best_priors(positives: Positives, limit: int) -> list[list[int]]:
    """Per image the priors that overlap most, ascending."""
    best = []
    for image in range(len(positives.counts)):
        own = positives.images == image
        order = positives.overlaps[own].argsort(descending=True, stable=True)[:limit]
        best.append(sorted(positives.priors[own][order].tolist()))
    return best


def test_criterion__a_limit_that_is_not_reached_changes_nothing() -> None:
    outputs, targets = random_outputs("ins", 2), random_targets("ins", (5, 4))
    plain = Criterion(golden_config("ins"), LOSS)(outputs, targets)
    limited = replace(LOSS, max_masks_per_image=1000)
    assert torch.equal(
        Criterion(golden_config("ins"), limited)(outputs, targets).total, plain.total
    )


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("det", ["loss_cls", "loss_box"]),
        ("ins", ["loss_cls", "loss_box", "loss_mask"]),
        ("rot", ["loss_cls", "loss_box"]),
    ],
)
def test_loss_terms__scalars_sum_to_the_total_and_hold_no_graph(
    kind: str, names: list[str]
) -> None:
    terms = Criterion(golden_config(kind), LOSS)(
        random_outputs(kind, 2), random_targets(kind, (4, 2))
    )
    scalars = terms.scalars()
    assert list(scalars) == names
    assert not any(value.requires_grad for value in scalars.values())
    torch.testing.assert_close(sum(scalars.values()), terms.total.detach())
