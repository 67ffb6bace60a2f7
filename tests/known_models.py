"""Networks of random weights, as checkpoints and exported, with data in which they find things."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from model.checkpoints.checkpoint_files import save_checkpoint
from model.config import VARIANTS, Task
from model.export import export_model
from model.graph import Normalise
from model.manifest import Source
from model.postprocess import PUBLISHED_SETTINGS
from model.rtmdet import RTMDet, build_rtmdet
from tests.data_sets import write_lines
from training.evaluation.inference import NetworkInput, detections, read_input
from training.evaluation.instances import Found
from training.evaluation.predictors.torch_network import torch_predictor

#: Images are 16 pixels wider than high.
SIDE = 64
NUM_IMAGES = 5
CLASSES = ("cat", "dog")
VARIANT: dict[Task, str] = {"instance": "rtmdet-ins-nano", "rotated": "rtmdet-r-nano"}


@dataclass(frozen=True)
class Known:
    """A network of random weights as a checkpoint and exported, and images with what it finds.

    The exported model is called like the task.
    """

    task: Task
    checkpoint: Path
    repository: Path
    data: Path

    def copy_data(self, folder: Path) -> Path:
        for file in self.data.rglob("*.*"):
            target = folder / file.relative_to(self.data)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        return folder


#: Mean and deviation of what a head predicts: logits, distances in strides, angles, kernels.
PREDICTED = {"cls": (-2.0, 1.0), "reg": (2.0, 0.3), "angle": (0.0, 1.0), "kernel": (0.0, 0.5)}


@torch.no_grad()
def make_it_predict(network: RTMDet, inputs: Sequence[NetworkInput]) -> None:
    """Let random weights give scores and boxes of all kinds for these inputs."""
    images = Normalise()(torch.from_numpy(np.stack([each.pixels for each in inputs])))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    network.eval()

    def scaled_to(mean: float, deviation: float) -> Callable[[nn.Module, object, Tensor], None]:
        def scale(layer, _inputs, output: Tensor) -> None:
            layer.weight.mul_(deviation / output.std())
            layer.bias.fill_(mean)

        return scale

    hooks = [
        layer.register_forward_hook(scaled_to(*PREDICTED[name.partition("_")[0]]))
        for name, layer in network.head.named_modules()
        if "predictors.levels." in name
    ]
    network(images)
    for hook in hooks:
        hook.remove()


def known_once(task: Task, factory: pytest.TempPathFactory) -> Known:
    """Made once for all tests: nobody changes it."""
    return make_known(task, factory.getbasetemp() / f"known-{task}")


@cache
def make_known(task: Task, folder: Path) -> Known:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build_rtmdet(VARIANTS[VARIANT[task]].with_classes(len(CLASSES))).eval()
    network.config = replace(network.config, input_size=(SIDE, SIDE))
    known = Known(task, folder / f"{task}.safetensors", folder / "repository", folder / "data")
    pictures = Pictures(known.data / "val" / ("images" if task == "rotated" else ""))
    inputs = [read_input(pictures, position, (SIDE, SIDE)) for position in range(NUM_IMAGES)]
    make_it_predict(network, inputs)
    manifest = save_checkpoint(
        network,
        known.checkpoint,
        classes=CLASSES,
        source=Source(kind="trained", command="rtmdet train"),
        input_size=(SIDE, SIDE),
    )
    export_model(network, manifest, known.repository, name=task)
    write_found(known, network, inputs)
    return known


class Pictures:
    """Images on disk."""

    are_upright = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for position in range(NUM_IMAGES):
            random = np.random.default_rng(position)
            coarse = random.integers(0, 256, (5, 6, 3), np.uint8)
            path = self.image_path(position)
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), cv2.resize(coarse, (SIDE + 16, SIDE)))

    def image_path(self, position: int) -> Path:
        return self.folder / f"{position}.png"

    def image_size(self, position: int) -> tuple[int, int]:
        return SIDE, SIDE + 16


def write_found(known: Known, network: RTMDet, inputs: Sequence[NetworkInput]) -> None:
    """Annotate the pictures with the best of what the network finds in them."""
    predictor = torch_predictor(
        network, task=known.task, input_size=(SIDE, SIDE), device=torch.device("cpu")
    )
    settings = PUBLISHED_SETTINGS[known.task]
    found = [
        detections(candidates, one, settings)
        for candidates, one in zip(predictor.candidates(inputs), inputs, strict=True)
    ]
    write = write_as_dota if known.task == "rotated" else write_as_coco
    write(known.data, found)


def best_of(found: Found) -> list[int]:
    """Rows of what has a high score, and of masks some pixels."""
    return [
        row
        for row, score in enumerate(found.scores)
        if score > 0.25 and (found.masks is None or mask_area(found.masks[row]) > 0)
    ]


def mask_area(counts: bytes) -> int:
    return int(coco_mask.area({"size": [SIDE, SIDE + 16], "counts": counts}))


def write_as_coco(data: Path, best: list[Found]) -> None:
    annotations = [
        {
            "id": 1000 * position + row + 1,
            "image_id": 100 + position,
            # Not the labels of the model.
            "category_id": 7 - int(found.labels[row]),
            "bbox": [*found.boxes[row, :2].tolist(), *sides(found.boxes[row])],
            "area": float(np.prod(sides(found.boxes[row]))),
            "iscrowd": 0,
            "segmentation": {
                "size": [SIDE, SIDE + 16],
                "counts": (found.masks or ())[row].decode(),
            },
        }
        for position, found in enumerate(best)
        for row in best_of(found)
    ]
    images = [
        {"id": 100 + n, "file_name": f"{n}.png", "width": SIDE + 16, "height": SIDE}
        for n in range(NUM_IMAGES)
    ]
    categories = [{"id": 6, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 9, "name": "emu"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = data / "annotations" / "instances_val.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))


def sides(box: np.ndarray) -> list[float]:
    return (box[2:] - box[:2]).tolist()


def write_as_dota(data: Path, best: list[Found]) -> None:
    for position, found in enumerate(best):
        lines = []
        for row in best_of(found):
            cx, cy, w, h, angle = found.boxes[row].tolist()
            corners = cv2.boxPoints(((cx, cy), (w, h), np.degrees(angle)))
            numbers = " ".join(f"{value:.4f}" for value in corners.flat)
            lines.append(f"{numbers} {CLASSES[found.labels[row]]} 0")
        write_lines(data / "val" / "labelTxt" / f"{position}.txt", lines)
