"""Evaluation of networks: one that knows the answers, the real one, and several ranks together."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from torch import Tensor, nn

from model.checkpoints.checkpoint_files import read_published
from model.config import STRIDES, VARIANTS
from model.graph import Normalise
from model.heads.outputs import HeadOutputs
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import load_published
from tests.plain_scenes import SHAPE_NAMES
from training.data.formats.layouts import find_data
from training.data.indexing.detection_index import DetectionIndex, build_index
from training.data.sampling.images import UnreadableImage
from training.data.synthetic.data_set import split_scenes, write_shapes
from training.evaluation.average_precision import Metrics
from training.evaluation.evaluator import EvaluationSettings, Evaluator, truth_of
from training.evaluation.inference import BatchRunner, read_input

SIZE = 160
NUM_IMAGES = 7
LAYOUTS = {"detect": "coco", "instance": "coco", "rotated": "dota"}
TASKS = tuple(LAYOUTS)
SETTINGS = {
    task: EvaluationSettings(task=task, input_size=(SIZE, SIZE), batch_size=2) for task in TASKS
}


class Ranks:
    """Several ranks as threads: each knows its number, and they meet where they gather."""

    def __init__(self, rank: int = 0, meeting: "Meeting | None" = None) -> None:
        self.rank = rank
        self.device = torch.device("cpu")
        self._meeting = meeting or Meeting(1)
        self.num_ranks = self._meeting.num_ranks

    def gather(self, value):
        return self._meeting.gather(self.rank, value)

    def from_first(self, value):
        return self.gather(value)[0]


class Meeting:
    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._barrier = threading.Barrier(num_ranks, timeout=60)
        self._values: list = [None] * num_ranks

    def gather(self, rank: int, value) -> list:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values


class KnowingNetwork(nn.Module):
    """Recognises pictures and gives predictions that decode to what is annotated in them.

    Boxes are off by `offset` pixels, and by `noise` at random, the same for the same picture.
    Instance i is drawn in channel i of the mask features, unless all kernels show another.
    """

    def __init__(
        self,
        index: DetectionIndex,
        *,
        offset: float = 0.0,
        noise: float = 0.0,
        shown_channel: int | None = None,
    ) -> None:
        super().__init__()
        self.shown_channel = shown_channel
        self.index = index
        self.offset = offset
        self.noise = noise
        self.scenes = list(split_scenes("val", len(index), size=SIZE, seed=0))
        normalise = Normalise()
        self.known = [
            normalise(torch.from_numpy(cv2.imread(str(index.image_path(p)))[None]))[0]
            for p in range(len(index))
        ]

    def forward(self, images: Tensor) -> HeadOutputs:
        rows = [self._outputs(self._position(image)) for image in images]

        def stacked(name: str) -> list[Tensor]:
            levels = [getattr(row, name) for row in rows]
            return [torch.stack(level) for level in zip(*levels, strict=True)]

        features = [row.mask_features for row in rows]
        return HeadOutputs(
            logits=stacked("logits"),
            distances=stacked("distances"),
            angles=stacked("angles"),
            kernels=stacked("kernels"),
            mask_features=None if features[0] is None else torch.stack(features),
        )

    def _position(self, image: Tensor) -> int:
        [position] = [p for p, known in enumerate(self.known) if torch.allclose(known, image)]
        return position

    def _outputs(self, position: int) -> HeadOutputs:
        """Every instance at the cell of the finest level that is nearest to its centre."""
        task = self.index.task
        cells = [SIZE // stride for stride in STRIDES]
        outputs = HeadOutputs(
            logits=[torch.full((len(self.index.classes), n, n), -20.0) for n in cells],
            distances=[torch.ones(4, n, n) for n in cells],
            angles=[torch.zeros(1, n, n) for n in cells] if task == "rotated" else [],
            kernels=[torch.zeros(169, n, n) for n in cells] if task == "instance" else [],
            mask_features=torch.zeros(8, cells[0], cells[0]) if task == "instance" else None,
        )
        truth = self.index.evaluation_annotations(position)
        random = np.random.default_rng(position)
        moves = self.offset + self.noise * random.normal(size=truth.boxes.shape)
        if task == "rotated":
            moves[:, 4] = 0
        for row, box in enumerate((truth.boxes + moves).astype(np.float32)):
            centre = box[:2] if task == "rotated" else (box[:2] + box[2:]) / 2
            column, line = np.round(centre / STRIDES[0]).astype(int)
            x, y = column * STRIDES[0], line * STRIDES[0]
            outputs.logits[0][truth.labels[row], line, column] = 5.0
            outputs.distances[0][:, line, column] = torch.from_numpy(
                rotated_distances(box, x, y) if task == "rotated" else upright_distances(box, x, y)
            )
            if task == "rotated":
                outputs.angles[0][0, line, column] = float(box[4])
            if task == "instance":
                mask = self.scenes[position].masks[row].astype(np.float32)
                small = cv2.resize(mask, (cells[0], cells[0]), interpolation=cv2.INTER_AREA)
                outputs.mask_features[row] = torch.from_numpy(small)
                shown = row if self.shown_channel is None else self.shown_channel
                outputs.kernels[0][:, line, column] = kernel_that_shows(shown)
        return outputs


def upright_distances(box, x, y) -> np.ndarray:
    return np.array([x - box[0], y - box[1], box[2] - x, box[3] - y], np.float32)


def rotated_distances(box, x, y) -> np.ndarray:
    cos, sin = np.cos(box[4]), np.sin(box[4])
    along = (x - box[0]) * cos + (y - box[1]) * sin
    across = (y - box[1]) * cos - (x - box[0]) * sin
    half_w, half_h = box[2] / 2, box[3] / 2
    return np.array([half_w + along, half_h + across, half_w - along, half_h - across], np.float32)


def kernel_that_shows(channel: int) -> Tensor:
    """A mask network that gives 20 * feature - 10: all weights, then all biases."""
    first, second, third = torch.zeros(8, 10), torch.zeros(8, 8), torch.zeros(1, 8)
    first[0, 2 + channel] = 1
    second[0, 0] = 1
    third[0, 0] = 20
    biases = torch.zeros(17)
    biases[-1] = -10
    return torch.cat([first.flatten(), second.flatten(), third.flatten(), biases])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more, and ranks share the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DetectionIndex]:
    made = {}
    for task, layout in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(task)
        write_shapes(
            folder / "set", num_train=1, num_val=NUM_IMAGES, size=SIZE, seed=0, layout=layout
        )
        made[task] = build_index(
            find_data(folder / "set", task).val,
            task=task,
            folder=folder / "index",
            classes=SHAPE_NAMES,
            keep_images_without_boxes=True,
        )
    return made


def on_ranks(num_ranks: int, work: Callable[[Ranks], object]) -> list:
    """What each rank gives; an exception is given too."""
    meeting = Meeting(num_ranks)
    results: list = [None] * num_ranks

    def run(rank: int) -> None:
        try:
            results[rank] = work(Ranks(rank, meeting))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("detect", ("box_ap", "box_ap50", "box_ap75")),
        ("instance", ("box_ap", "box_ap50", "box_ap75")),
        ("rotated", ("rotated_ap50", "rotated_ap50_voc07", "rotated_ap75")),
    ],
)
def test_evaluator__a_network_that_knows_everything_reaches_one(task, names, indices):
    evaluator = Evaluator(indices[task], SETTINGS[task], Ranks())

    metrics = evaluator.evaluate(KnowingNetwork(indices[task]))
    assert {name: metrics.values[name] for name in names} == pytest.approx(
        dict.fromkeys(names, 1.0)
    )
    assert metrics.num_images == NUM_IMAGES


def test_evaluator__masks_are_compared_too(indices):
    index = indices["instance"]
    evaluator = Evaluator(index, SETTINGS["instance"], Ranks())

    # Features have a cell for 8 x 8 pixels, which is coarse for thin stars.
    metrics = evaluator.evaluate(KnowingNetwork(index))
    assert metrics.values["mask_ap50"] > 0.9
    empty = evaluator.evaluate(KnowingNetwork(index, shown_channel=7))
    assert empty.values["mask_ap50"] == 0
    assert empty.values["box_ap50"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_evaluator__boxes_that_are_off_are_not_found(task, indices):
    evaluator = Evaluator(indices[task], SETTINGS[task], Ranks())

    metrics = evaluator.evaluate(KnowingNetwork(indices[task], offset=2.5))
    name = "rotated_ap" if task == "rotated" else "box_ap"
    assert 0 < metrics.values[name] < 0.8


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_evaluator__several_ranks_find_what_one_finds(task, num_ranks, indices):
    network = KnowingNetwork(indices[task], noise=2.0)

    def work(ranks: Ranks) -> Metrics | None:
        return Evaluator(indices[task], SETTINGS[task], ranks).evaluate(network)

    [alone] = on_ranks(1, work)
    assert 0 < alone.values[next(iter(alone.values))] < 1
    assert on_ranks(num_ranks, work) == [alone] * num_ranks


def test_evaluator__more_ranks_than_images(indices):
    index = indices["detect"]
    settings = replace(SETTINGS["detect"], max_images=2)

    results = on_ranks(
        3, lambda ranks: Evaluator(index, settings, ranks).evaluate(KnowingNetwork(index))
    )
    assert [result.values["box_ap"] for result in results] == [1.0] * 3


def test_evaluator__batches_do_not_change_the_result(indices):
    index = indices["detect"]
    network = KnowingNetwork(index, noise=2.0)

    singly, together = [
        Evaluator(index, replace(SETTINGS["detect"], batch_size=size), Ranks()).evaluate(network)
        for size in (1, 4)
    ]
    assert 0 < singly.values["box_ap"] < 1
    assert singly == together


def test_evaluator__max_images_are_spread_over_the_set(indices):
    index = indices["detect"]
    settings = replace(SETTINGS["detect"], max_images=3)
    network = KnowingNetwork(index)
    seen = []
    network.register_forward_pre_hook(
        lambda _, args: seen.extend(network._position(image) for image in args[0])
    )

    metrics = Evaluator(index, settings, Ranks()).evaluate(network)
    assert metrics.num_images == 3
    assert seen == [0, 2, 4]


def test_evaluator__leaves_the_networks_mode_as_it_was(indices):
    index = indices["detect"]
    network = KnowingNetwork(index).train()
    modes = []
    network.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    Evaluator(index, SETTINGS["detect"], Ranks()).evaluate(network)
    assert set(modes) == {False}
    assert network.training


def test_evaluator__tells_how_far_it_is(indices):
    told = []

    def watch(done: int, total: int) -> bool:
        told.append((done, total))
        return True

    index = indices["detect"]
    Evaluator(index, SETTINGS["detect"], Ranks()).evaluate(KnowingNetwork(index), watch)
    assert told == [(2, 7), (4, 7), (6, 7), (7, 7)]


def test_evaluator__ends_on_all_ranks_when_one_is_to_stop(indices):
    index = indices["detect"]
    rounds = [0, 0]

    def work(ranks: Ranks) -> Metrics | None:
        def watch(_done: int, _total: int) -> bool:
            rounds[ranks.rank] += 1
            return ranks.rank == 0

        settings = replace(SETTINGS["detect"], batch_size=1)
        return Evaluator(index, settings, ranks).evaluate(KnowingNetwork(index), watch)

    assert on_ranks(2, work) == [None, None]
    assert rounds == [1, 1]


def test_evaluator__names_an_unreadable_image_on_all_ranks(tmp_path: Path):
    write_shapes(tmp_path / "set", num_train=1, num_val=4, size=SIZE, seed=0)
    index = build_index(
        find_data(tmp_path / "set", "detect").val, task="detect", folder=tmp_path / "index"
    )
    network = KnowingNetwork(index)
    damaged = index.image_path(1)
    damaged.write_bytes(b"no image")

    results = on_ranks(
        2, lambda ranks: Evaluator(index, SETTINGS["detect"], ranks).evaluate(network)
    )
    assert {type(result) for result in results} == {UnreadableImage}
    assert {str(damaged) in str(result) for result in results} == {True}


class WithoutInstances:
    """A view of an index in which every instance is a crowd."""

    def __init__(self, index: DetectionIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def __getattr__(self, name: str):
        return getattr(self._index, name)

    def evaluation_annotations(self, position: int):
        annotations = self._index.evaluation_annotations(position)
        return replace(annotations, is_crowd=np.ones(len(annotations), bool))


def test_evaluator__refuses_a_set_with_nothing_to_be_found(indices):
    with pytest.raises(ValueError, match="no validation image has an instance"):
        Evaluator(WithoutInstances(indices["detect"]), SETTINGS["detect"], Ranks())


def test_batch_runner__in_bf16_gives_nearly_the_same_in_float32(indices):
    torch.manual_seed(0)
    network = build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(len(SHAPE_NAMES))).eval()
    inputs = [read_input(indices["detect"], position, (SIZE, SIZE)) for position in range(2)]
    cpu = torch.device("cpu")

    exact = BatchRunner((SIZE, SIZE), cpu, bf16=False)(network, inputs)
    rough = BatchRunner((SIZE, SIZE), cpu, bf16=True)(network, inputs)
    for one, other in zip(exact, rough, strict=True):
        assert other.logits.dtype == other.boxes.dtype == np.float32
        assert (one.logits != other.logits).any()
        np.testing.assert_allclose(one.logits, other.logits, atol=0.1)


@pytest.fixture(scope="module")
def real_network(shared_folder: Path) -> RTMDet:
    network = build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(1))
    published = read_published(shared_folder / "real" / "rtmdet_nano_person.pth")
    load_published(network, published.weights)
    return network


@pytest.mark.parity
def test_evaluator__real_weights_reach_the_published_person_ap(
    real_network: RTMDet, shared_folder: Path, tmp_path: Path
):
    source = find_data(shared_folder / "data" / "coco-mini", "detect").val
    index = build_index(source, task="detect", folder=tmp_path, keep_images_without_boxes=True)
    assert index.classes[0] == "person"
    assert len(index) == 47

    settings = EvaluationSettings(task="detect", input_size=(320, 320))
    metrics = Evaluator(index, settings, Ranks()).evaluate(real_network)
    person = metrics.per_class["person"]
    assert person["box_ap"] == pytest.approx(0.41412, abs=2e-5)
    assert person["box_ap50"] == pytest.approx(0.6459, abs=5e-5)
    assert person["box_ap75"] == pytest.approx(0.4326, abs=5e-5)


@pytest.mark.parity
def test_truth_of__is_what_pycocotools_reads(shared_folder: Path, tmp_path: Path, capsys):
    source = find_data(shared_folder / "data" / "coco-mini", "instance").val
    index = build_index(source, task="instance", folder=tmp_path, keep_images_without_boxes=True)
    theirs = COCO(str(source.path))
    capsys.readouterr()

    ours = truth_of(index, range(len(index)))
    ids = np.concatenate([index.evaluation_annotations(p).ids for p in range(len(index))])
    annotations = theirs.loadAnns(ids.tolist())
    assert len(ours) == len(theirs.anns) == 431
    assert ours.ignored.tolist() == [bool(each["iscrowd"]) for each in annotations]
    np.testing.assert_array_equal(ours.areas, [each["area"] for each in annotations])
    assert list(ours.masks) == [theirs.annToRLE(each)["counts"] for each in annotations]
