from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.classifier import build_classifier
from model.config import BACKBONES, VARIANTS, BackboneConfig
from model.graph import Normalise
from model.rtmdet import build_rtmdet
from training.classification.accuracy import AccuracyEvaluator, Guesses
from training.classification.loading import ClassificationBatch, ClassificationLoader
from training.classification.losses import classification_loss
from training.classification.samples import (
    draw_crop,
    evaluation_sample,
    read_picture,
    training_sample,
)
from training.classification.saving import save_classifier
from training.config import EMAConfig, FlipConfig, StageConfig, TrainConfig
from training.data.sampling.images import UnreadableImage
from training.initialisation import initialise
from training.optimisation.ema import WeightAverage
from training.optimisation.optim import build_optimizer
from training.overrides import apply_overrides
from training.recipes import recipe

torch.set_num_threads(1)

NUM_CLASSES = 3

PLAIN = StageConfig(name="crops", colour=False, flip=FlipConfig(horizontal=0.0))


@dataclass
class Pictures:
    """Files and their labels, the latter by what the picture shows."""

    paths: list[Path]
    labels: list[int]
    classes: tuple[str, ...] = ("blue", "green", "red")
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def image_path(self, position: int) -> Path:
        self.read.append(position)
        return self.paths[position]

    def label(self, position: int) -> int:
        return self.labels[position]


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Ten noisy pictures, each of one colour."""
    rng = np.random.default_rng(0)
    labels = [position % NUM_CLASSES for position in range(10)]
    paths = []
    for position, label in enumerate(labels):
        image = rng.integers(0, 40, (40 + position, 60, 3), dtype=np.uint8)
        image[..., label] += 200
        paths.append(tmp_path / f"{position}.png")
        cv2.imwrite(str(paths[-1]), image)
    return Pictures(paths, labels)


def config(*assignments: str) -> TrainConfig:
    small = ("model.input_size=32", "data.batch_size=2", "data.num_workers=0")
    return apply_overrides(recipe("cspnext-tiny"), (*small, *assignments))


def same(one: ClassificationBatch, other: ClassificationBatch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def epochs_of(loader: ClassificationLoader, epoch: int = 0) -> list[ClassificationBatch]:
    batches = list(loader.epoch(epoch))
    loader.close()
    return batches


# ---------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("size", [(40, 60), (8, 400), (400, 8), (1, 1)])
def test_draw_crop__lies_in_the_image(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        crop = draw_crop(*size, rng)
        assert crop.height >= 1
        assert crop.width >= 1
        assert 0 <= crop.top <= size[0] - crop.height
        assert 0 <= crop.left <= size[1] - crop.width


def test_draw_crop__has_the_areas_and_aspects_that_it_should() -> None:
    rng = np.random.default_rng(0)
    crops = [draw_crop(1000, 1000, rng) for _ in range(1000)]
    areas = np.array([crop.height * crop.width / 1e6 for crop in crops])
    aspects = np.log([crop.width / crop.height for crop in crops])
    assert 0.079 < areas.min() < 0.1
    assert 0.9 < areas.max() <= 1
    assert np.abs(aspects).max() <= np.log(4 / 3) + 0.01
    assert abs(aspects.mean()) < 0.02


def test_training_sample__is_a_part_of_the_image() -> None:
    columns = np.arange(256, dtype=np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(columns[None, :, None], (200, 256, 3)))
    sample = training_sample(image, (32, 48), PLAIN, np.random.default_rng(0))
    assert sample.shape == (32, 48, 3)
    assert (np.diff(sample[0, :, 0].astype(int)) > 0).all()
    assert np.ptp(sample[:, 5, 0]) == 0


@pytest.mark.parametrize(
    ("flip", "axes"),
    [
        (FlipConfig(horizontal=1.0), (1,)),
        (FlipConfig(horizontal=0.0, vertical=1.0), (0,)),
        (FlipConfig(horizontal=0.0, diagonal=1.0), (0, 1)),
    ],
)
def test_training_sample__is_flipped(flip: FlipConfig, axes: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    stage = StageConfig(name="crops", colour=False, flip=flip)
    plain = training_sample(image, (32, 32), PLAIN, np.random.default_rng(3))
    flipped = training_sample(image, (32, 32), stage, np.random.default_rng(3))
    np.testing.assert_array_equal(flipped, np.flip(plain, axes))
    assert not np.array_equal(flipped, plain)


def test_training_sample__flips_share_one_draw() -> None:
    rows, columns = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    image = np.stack((rows, columns, columns), axis=2).astype(np.uint8)
    flip = FlipConfig(horizontal=0.25, vertical=0.25, diagonal=0.25)
    stage = StageConfig(name="crops", colour=False, flip=flip)
    rng = np.random.default_rng(0)
    found = {(upside_down, mirrored): 0 for upside_down in (0, 1) for mirrored in (0, 1)}
    for _ in range(400):
        top_left, bottom_right = training_sample(image, (8, 8), stage, rng)[[0, -1], [0, -1], :2]
        found[int(top_left[0] > bottom_right[0]), int(top_left[1] > bottom_right[1])] += 1
    assert all(70 < count < 130 for count in found.values())


def test_training_sample__colours_change_only_when_asked() -> None:
    image = np.full((50, 60, 3), (60, 120, 180), np.uint8)
    stage = StageConfig(name="crops", flip=FlipConfig(horizontal=0.0))

    def colours(stage: StageConfig) -> set[tuple[int, ...]]:
        samples = [
            training_sample(image, (8, 8), stage, np.random.default_rng(seed)) for seed in range(20)
        ]
        return {tuple(sample[0, 0].tolist()) for sample in samples}

    assert colours(PLAIN) == {(60, 120, 180)}
    assert len(colours(stage)) > 5


def test_evaluation_sample__is_the_centre_less_a_margin() -> None:
    rows, columns = np.meshgrid(np.arange(128), np.arange(256), indexing="ij")
    image = np.stack((columns, rows, rows), axis=2).astype(np.uint8)
    sample = evaluation_sample(image, (112, 112)).astype(int)
    # 256 columns and 128 rows, of which the middle 112 of each are seen at their own scale.
    np.testing.assert_array_equal(sample[0, :, 0], np.arange(72, 184))
    np.testing.assert_array_equal(sample[:, 0, 1], np.arange(8, 120))


def test_evaluation_sample__fits_an_input_that_is_not_square() -> None:
    image = np.zeros((90, 50, 3), np.uint8)
    assert evaluation_sample(image, (64, 96)).shape == (64, 96, 3)
    assert evaluation_sample(image[:1, :1], (64, 96)).shape == (64, 96, 3)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_read_picture__unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"a\.jpg: "):
        read_picture(path)


# ---------------------------------------------------------------------------------------- loading


def test_loader__gives_full_batches_of_what_the_images_show(pictures: Pictures) -> None:
    loader = ClassificationLoader(pictures, config("data.batch_size=4"))
    batches = epochs_of(loader)
    assert len(batches) == loader.batches_per_epoch == 3
    for batch in batches:
        assert batch.images.shape == (4, 32, 32, 3)
        assert batch.images.dtype == torch.uint8
        brightest = batch.images.float().mean(dim=(1, 2)).argmax(dim=1)
        assert torch.equal(brightest, batch.labels)


def test_loader__shows_every_image_once_an_epoch_in_another_order(pictures: Pictures) -> None:
    loader = ClassificationLoader(pictures, config())
    orders = []
    for epoch in (0, 1):
        pictures.read.clear()
        epochs_of(loader, epoch)
        orders.append(list(pictures.read))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_loader__ranks_share_the_images(pictures: Pictures) -> None:
    seen = []
    for rank in (0, 1):
        pictures.read.clear()
        loader = ClassificationLoader(pictures, config(), rank=rank, num_ranks=2)
        assert len(epochs_of(loader)) == 3
        seen += pictures.read
    assert len(seen) == 12
    assert set(seen) == set(range(10))


def test_loader__set_smaller_than_a_batch_is_repeated(pictures: Pictures) -> None:
    loader = ClassificationLoader(pictures, config("data.batch_size=16"), num_ranks=2)
    (batch,) = epochs_of(loader)
    assert len(batch.labels) == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_loader__epoch_can_be_entered_anywhere(pictures: Pictures, workers: int) -> None:
    whole = epochs_of(ClassificationLoader(pictures, config()), 1)
    loader = ClassificationLoader(pictures, config(f"data.num_workers={workers}"))
    rest = list(loader.epoch(1, 2))
    loader.close()
    assert len(rest) == len(whole) - 2
    assert all(same(one, other) for one, other in zip(rest, whole[2:], strict=True))


@pytest.mark.parametrize("setting", ["runtime.seed=1", "epoch", "rank"])
def test_loader__what_is_random_follows_from_seed_epoch_and_rank(
    pictures: Pictures, setting: str
) -> None:
    one = Pictures(pictures.paths[:1], pictures.labels[:1])
    first = epochs_of(ClassificationLoader(one, config()))[0]
    changes = (setting,) if "=" in setting else ()
    ranks = {"rank": 1, "num_ranks": 2} if setting == "rank" else {}
    loader = ClassificationLoader(one, config(*changes), **ranks)
    other = epochs_of(loader, 1 if setting == "epoch" else 0)[0]
    assert not torch.equal(first.images[0], other.images[0])
    assert same(first, epochs_of(ClassificationLoader(one, config()))[0])


def test_loader__unreadable_image_is_replaced_and_named(pictures: Pictures) -> None:
    pictures.paths[4].write_bytes(b"")
    batches = epochs_of(ClassificationLoader(pictures, config()))
    problems = [line for batch in batches for line in batch.problems]
    assert len(problems) >= 1
    assert all(str(pictures.paths[4]) in line for line in problems)
    assert all(len(batch.labels) == 2 for batch in batches)


def test_loader__nothing_readable_is_an_error(pictures: Pictures) -> None:
    for path in pictures.paths:
        path.unlink()
    with pytest.raises(UnreadableImage, match="none of 19 replacements can be read"):
        epochs_of(ClassificationLoader(pictures, config()))


def test_loader__empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no image to train on"):
        ClassificationLoader(Pictures([], []), config())


def test_batch__moves_as_a_whole() -> None:
    images, labels = torch.zeros(1, 2, 2, 3), torch.zeros(1, dtype=torch.int64)
    moved = ClassificationBatch(images, labels, ("a",)).to(torch.device("meta"))
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")
    assert moved.problems == ("a",)


# ------------------------------------------------------------------------------ loss and accuracy


def test_loss__is_the_cross_entropy_with_smoothed_labels() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    labels = torch.tensor([0, 1])
    targets = torch.tensor([[0.9, 0, 0], [0, 0.9, 0]]) + 0.1 / 3
    wanted = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(classification_loss(logits, labels), wanted)


def test_loss__is_computed_in_float32() -> None:
    logits = torch.randn(2, 5).bfloat16()
    loss = classification_loss(logits, torch.tensor([1, 2]))
    assert loss.dtype == torch.float32


def guessed(labels: list[int], guesses: list[list[int]]) -> Guesses:
    probabilities = np.zeros((len(labels), len(guesses[0])), np.float32)
    return Guesses(np.arange(len(labels)), np.array(labels), np.array(guesses), probabilities)


def test_guesses__hits_look_at_the_best_one_and_the_best_five() -> None:
    hits = guessed([7, 3, 2, 6], [[7, 6, 5, 4, 3]] * 4).hits()
    assert hits.tolist() == [[1, 1], [0, 1], [0, 0], [0, 1]]


def test_guesses__hits_of_few_classes() -> None:
    assert guessed([0], [[1, 0]]).hits().tolist() == [[0, 1]]


def test_accuracy__tells_every_guess_with_its_probability(pictures: Pictures) -> None:
    pictures.paths[3].write_bytes(b"")
    found = AccuracyEvaluator(pictures, config("data.batch_size=4"), CPU).evaluate(Fixed())
    assert found is not None
    assert found.guesses.positions.tolist() == [0, 1, 2, *range(4, 10)]
    assert found.guesses.labels.tolist() == [pictures.labels[p] for p in found.guesses.positions]
    assert found.guesses.guesses.tolist() == [[1, 2, 0]] * 9
    powers = np.exp([2.0, 1.0, 0.0])
    np.testing.assert_allclose(found.guesses.probabilities, [powers / powers.sum()] * 9, rtol=1e-6)


class Brightest(nn.Module):
    """Says which channel is the brightest, which is right; the others rank by their number."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images.mean(dim=(2, 3))


class Fixed(nn.Module):
    """Always the same guess."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([[0.0, 2.0, 1.0]]).expand(len(images), -1)


CPU = torch.device("cpu")


def test_accuracy__counts_every_image_once(pictures: Pictures) -> None:
    evaluator = AccuracyEvaluator(pictures, config("data.batch_size=4"), CPU)
    right, fixed = evaluator.evaluate(Brightest()), evaluator.evaluate(Fixed())
    assert sorted(pictures.read) == sorted([*range(10), *range(10)])
    assert right is not None
    assert right.metrics.values == {"top1": 1.0, "top5": 1.0}
    assert fixed is not None
    assert fixed.metrics.values == {"top1": 0.3, "top5": 1.0}
    assert {name: value["top1"] for name, value in fixed.metrics.per_class.items()} == {
        "blue": 0.0,
        "green": 1.0,
        "red": 0.0,
    }


def test_accuracy__says_how_far_it_is_and_can_be_stopped(pictures: Pictures) -> None:
    seen: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> bool:
        seen.append((done, total))
        return len(seen) < 2

    evaluator = AccuracyEvaluator(pictures, config("data.batch_size=4"), CPU)
    assert evaluator.evaluate(Brightest(), watch) is None
    assert seen == [(4, 10), (8, 10)]


def test_accuracy__unreadable_images_are_named_and_left_out(pictures: Pictures) -> None:
    for position in (0, 3):  # two of the four blue ones
        pictures.paths[position].write_bytes(b"")
    network = Fixed().train()
    found = AccuracyEvaluator(pictures, config(), CPU).evaluate(network)
    assert found is not None
    assert network.training
    assert [Path(line.partition(":")[0]).name for line in found.unreadable] == ["0.png", "3.png"]
    assert found.metrics.num_images == 8
    assert found.metrics.values["top1"] == 3 / 8


def test_accuracy__without_a_readable_image_is_an_error(pictures: Pictures) -> None:
    for path in pictures.paths:
        path.unlink()
    with pytest.raises(UnreadableImage, match=r"no image can be read; the first: .*0\.png"):
        AccuracyEvaluator(pictures, config(), CPU).evaluate(Fixed())


def test_accuracy__empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no validation image"):
        AccuracyEvaluator(Pictures([], []), config(), CPU)


# ------------------------------------------------------------------------------------- the result


def test_save__gives_what_a_detector_starts_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(BACKBONES["nano"], NUM_CLASSES)
    save_classifier(classifier, tmp_path / "best.pth", classes=("a", "b", "c"))
    detector = build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(2))
    assert initialise(detector, tmp_path / "best.pth") == [
        "the backbone is from best.pth; all else starts at random"
    ]
    for name, value in detector.backbone.state_dict().items():
        assert torch.equal(value, classifier.backbone.state_dict()[name]), name


def test_save__wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    classifier = build_classifier(BACKBONES["nano"], NUM_CLASSES)
    with pytest.raises(ValueError, match="2 classes are named, but the network has 3"):
        save_classifier(classifier, tmp_path / "best.pth", classes=("a", "b"))


def test_training__on_a_few_pictures_learns_their_classes(pictures: Pictures) -> None:
    torch.manual_seed(0)
    settings = config("data.batch_size=10", "optimizer.lr_batch_size=10", "stages.0.colour=no")
    network = build_classifier(BackboneConfig(deepen=0.167, widen=0.125), NUM_CLASSES)
    optimizer = build_optimizer(network, settings.optimizer, lr=0.004)
    average = WeightAverage(network, EMAConfig(horizon_share=0.1), total_steps=70)
    evaluator = AccuracyEvaluator(pictures, settings, CPU)
    loader = ClassificationLoader(pictures, settings)
    normalise = Normalise()
    before = evaluator.evaluate(network)
    for epoch in range(70):
        for batch in loader.epoch(epoch):
            loss = classification_loss(network.train()(normalise(batch.images)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(network)
    after = evaluator.evaluate(average.network)
    assert before is not None
    assert before.metrics.values["top1"] < 0.7
    assert after is not None
    assert after.metrics.values["top1"] == 1.0
