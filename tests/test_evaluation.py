"""Evaluation of networks: one that knows the answers, and the real one."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from torch import Tensor, nn

from model.boxes import input_priors
from model.checkpoints.checkpoint_files import read_published
from model.config import VARIANTS, Task
from model.heads.outputs import HeadOutputs
from model.postprocess import Candidates
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import load_published
from tests.knowing_network import SIZE, KnowingNetwork
from tests.plain_scenes import SHAPE_NAMES, scene
from training.data.formats.layouts import find_data, find_split
from training.data.indexing.detection_index import DetectionIndex, build_index
from training.data.sampling.images import UnreadableImage
from training.data.synthetic.data_set import ShapesPlan, write_shapes
from training.evaluation.average_precision import Metrics
from training.evaluation.evaluator import Evaluated, EvaluationSettings, Evaluator, truth_of
from training.evaluation.inference import NetworkInput, read_input
from training.evaluation.predictors.graph import GraphPredictor, prior_table
from training.evaluation.predictors.torch_network import TorchNetwork, torch_predictor
from training.evaluation.tiles import TiledImages

NUM_IMAGES = 7
LAYOUTS = {"detect": "coco", "instance": "coco", "rotated": "dota"}
TASKS = tuple(LAYOUTS)


def predictor(network: nn.Module, task: Task = "detect", **settings) -> GraphPredictor:
    size = settings.pop("input_size", (SIZE, SIZE))
    return torch_predictor(
        network, task=task, input_size=size, device=torch.device("cpu"), **settings
    )


def evaluated(
    index: DetectionIndex,
    network: nn.Module,
    watch: Callable[[int, int], bool] = lambda _done, _total: True,
    **changes,
) -> Evaluated | None:
    task = index.task
    settings = EvaluationSettings(
        **{"task": task, "input_size": (SIZE, SIZE), "batch_size": 2, **changes}
    )
    return Evaluator(index, settings).evaluate(predictor(network, task), watch)


def metrics_of(index: DetectionIndex, network: nn.Module, **changes) -> Metrics:
    return evaluated(index, network, **changes).metrics


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_plain(folder: Path, *, num_val: int, layout: str = "coco") -> None:
    """Scenes of at most four shapes, none of which hides another."""
    plan = ShapesPlan(num_train=1, num_val=num_val, size=SIZE, layout=layout, draw=scene)
    write_shapes(folder, plan)


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DetectionIndex]:
    made = {}
    for task, layout in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(task)
        write_plain(folder / "set", num_val=NUM_IMAGES, layout=layout)
        made[task] = build_index(
            find_data(folder / "set", task).val,
            task=task,
            folder=folder / "index",
            classes=SHAPE_NAMES,
            keep_images_without_boxes=True,
        )
    return made


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("detect", ("box_ap", "box_ap50", "box_ap75")),
        ("instance", ("box_ap", "box_ap50", "box_ap75")),
        ("rotated", ("rotated_ap50", "rotated_ap50_voc07", "rotated_ap75")),
    ],
)
def test_evaluator__a_network_that_knows_everything_reaches_one(task, names, indices):
    metrics = metrics_of(indices[task], KnowingNetwork(indices[task]))
    assert {name: metrics.values[name] for name in names} == pytest.approx(
        dict.fromkeys(names, 1.0)
    )
    assert metrics.num_images == NUM_IMAGES


def test_evaluator__masks_are_compared_too(indices):
    index = indices["instance"]

    # Features have a cell for 8 x 8 pixels, which is coarse for thin stars.
    metrics = metrics_of(index, KnowingNetwork(index))
    assert metrics.values["mask_ap50"] > 0.9
    empty = metrics_of(index, KnowingNetwork(index, shown_channel=7))
    assert empty.values["mask_ap50"] == 0
    assert empty.values["box_ap50"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_evaluator__boxes_that_are_off_are_not_found(task, indices):
    metrics = metrics_of(indices[task], KnowingNetwork(indices[task], offset=2.5))
    name = "rotated_ap" if task == "rotated" else "box_ap"
    assert 0 < metrics.values[name] < 0.8


def test_evaluator__batches_do_not_change_the_result(indices):
    index = indices["detect"]
    network = KnowingNetwork(index, noise=2.0)

    singly, together = [metrics_of(index, network, batch_size=size) for size in (1, 4)]
    assert 0 < singly.values["box_ap"] < 1
    assert singly == together


def test_evaluator__max_images_are_spread_over_the_set(indices):
    index = indices["detect"]
    network = KnowingNetwork(index)
    seen = []
    network.register_forward_pre_hook(
        lambda _, args: seen.extend(network.position_of(image) for image in args[0])
    )

    result = evaluated(index, network, max_images=3)
    assert result.metrics.num_images == 3
    assert sorted(seen) == list(result.positions) == [0, 2, 4]
    # Images are counted through these positions.
    assert set(result.found.images.tolist()) == set(result.truth.images.tolist()) == {0, 1, 2}


def test_evaluator__leaves_the_networks_mode_as_it_was(indices):
    index = indices["detect"]
    network = KnowingNetwork(index).train()
    modes = []
    network.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    evaluated(index, network)
    assert set(modes) == {False}
    assert network.training


def test_evaluator__tells_how_far_it_is(indices):
    told = []

    def watch(done: int, total: int) -> bool:
        told.append((done, total))
        return True

    index = indices["detect"]
    evaluated(index, KnowingNetwork(index), watch)
    assert told == [(2, 7), (4, 7), (6, 7), (7, 7)]


def test_evaluator__ends_when_it_is_to_stop(indices):
    index = indices["detect"]
    told = []

    def watch(done: int, _total: int) -> bool:
        told.append(done)
        return done < 2

    assert evaluated(index, KnowingNetwork(index), watch, batch_size=1) is None
    assert told == [1, 2]


def test_evaluator__names_an_unreadable_image_or_skips_it(tmp_path: Path):
    write_plain(tmp_path / "set", num_val=4)
    index = build_index(
        find_data(tmp_path / "set", "detect").val, task="detect", folder=tmp_path / "index"
    )
    network = KnowingNetwork(index)
    damaged = index.image_path(1)
    damaged.write_bytes(b"no image")

    with pytest.raises(UnreadableImage, match=re.escape(str(damaged))):
        evaluated(index, network)
    result = evaluated(index, network, skips_unreadable=True)
    assert [str(damaged) in line for line in result.unreadable] == [True]
    assert list(result.positions) == [0, 2, 3]
    assert result.metrics.num_images == 3
    assert result.metrics.values["box_ap"] == pytest.approx(1.0)


def test_evaluator__raises_what_the_network_raises(indices):
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> HeadOutputs:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluated(indices["detect"], Broken())


def test_evaluator__says_in_one_line_that_a_gpu_is_too_small(indices):
    class Large(nn.Module):
        def forward(self, images: Tensor) -> HeadOutputs:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(ValueError, match=r"memory for 2 images at once; .* smaller batch size"):
        evaluated(indices["detect"], Large())


class WhiteBoxes:
    """Finds the box around what is white, at the size of the images."""

    task: Task = "detect"
    input_size = (SIZE, SIZE)
    description = "white boxes"
    concurrency = 2
    max_batch_size = 3

    def candidates(self, inputs: Sequence[NetworkInput]) -> list[Candidates]:
        assert len(inputs) <= self.max_batch_size
        return [self._of(one.pixels) for one in inputs]

    def _of(self, pixels: np.ndarray) -> Candidates:
        rows, columns = np.nonzero((pixels > 200).all(axis=2))
        found = (
            [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
        )
        return Candidates(
            boxes=np.array(found, np.float32).reshape(-1, 4),
            scores=np.full(len(found), 0.5, np.float32),
            labels=np.zeros(len(found), np.int32),
        )


def white_boxes(folder: Path, corners: Sequence[tuple[int, int]]) -> DetectionIndex:
    """Images of 300 x 300 pixels with a white box of 30 x 20 each, its top left corner there."""
    images, annotations = [], []
    for number, (x, y) in enumerate(corners):
        picture = np.zeros((300, 300, 3), np.uint8)
        picture[y : y + 20, x : x + 30] = 255
        (folder / "val").mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / "val" / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "width": 300, "height": 300})
        box = {"bbox": [x, y, 30, 20], "area": 600, "iscrowd": 0, "category_id": 1}
        annotations.append({"id": number + 1, "image_id": number, **box})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "white"}]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    source = find_split(folder, "val", "detect")
    return build_index(source, task="detect", folder=folder / "index")


def test_evaluator__windows_of_large_images_are_merged_in_their_places(tmp_path: Path):
    # Each box lies whole in one window alone: they begin at 0 and 140.
    index = white_boxes(tmp_path, [(10, 20), (200, 30), (20, 240), (230, 210)])
    windows = TiledImages(index, SIZE, 20)
    settings = EvaluationSettings(task="detect", input_size=(SIZE, SIZE), skips_unreadable=True)
    told = []

    def watch(done: int, total: int) -> bool:
        told.append((done, total))
        return True

    result = Evaluator(index, settings, windows).evaluate(WhiteBoxes(), watch)
    assert result.metrics.values["box_ap"] == pytest.approx(1.0)
    np.testing.assert_array_equal(
        result.found.boxes[:, :2], [(10, 20), (200, 30), (20, 240), (230, 210)]
    )
    assert told[-1] == (16, 16)

    # An image whose windows cannot be read is told once; the others keep their places.
    index.image_path(1).write_bytes(b"")
    windows = TiledImages(index, SIZE, 20)
    result = Evaluator(index, settings, windows).evaluate(WhiteBoxes())
    assert (list(result.positions), len(result.unreadable)) == ([0, 2, 3], 1)
    assert result.metrics.values["box_ap"] == pytest.approx(1.0)


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
        evaluated(WithoutInstances(indices["detect"]), nn.Identity())


def nano(task: Task) -> RTMDet:
    """A small network of random weights whose candidates are many."""
    names = {"detect": "rtmdet-nano", "instance": "rtmdet-ins-nano", "rotated": "rtmdet-r-nano"}
    torch.manual_seed(0)
    network = build_rtmdet(VARIANTS[names[task]].with_classes(len(SHAPE_NAMES)))
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 0.5)
    return network.eval()


def test_torch_network__in_bf16_gives_nearly_the_same_in_float32(indices):
    inputs = [read_input(indices["detect"], position, (SIZE, SIZE)) for position in range(2)]
    pixels = np.stack([each.pixels for each in inputs])
    network = nano("detect")

    exact, rough = [
        TorchNetwork(
            network,
            task="detect",
            input_size=(SIZE, SIZE),
            device=torch.device("cpu"),
            precision=precision,
        ).infer(pixels)
        for precision in ("float32", "bf16")
    ]
    for name, expected in exact.items():
        assert rough[name].dtype == np.float32
        assert (rough[name] != expected).any()
    np.testing.assert_allclose(rough["dense_logits"], exact["dense_logits"], rtol=0.1, atol=0.1)


def test_prior_table__is_that_of_the_network():
    np.testing.assert_array_equal(prior_table((96, 160)), input_priors((96, 160)).numpy())


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
    result = Evaluator(index, settings).evaluate(predictor(real_network, input_size=(320, 320)))
    person = result.metrics.per_class["person"]
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
