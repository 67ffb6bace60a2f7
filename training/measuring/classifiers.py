"""Measuring a classifier: weights in a `.pth` on folders of images, one folder per class."""

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from model.checkpoints.checkpoint_files import PublishedCheckpoint, read_published
from model.classifier import CSPNeXtClassifier, build_classifier
from model.config import CLASSIFIERS
from model.manifest import file_sha256, valid_input_size
from model.weights import load_published, num_published_classes, recognise
from training.classification.accuracy import Accuracy, AccuracyEvaluator
from training.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    RuntimeConfig,
    StageConfig,
    TrainConfig,
)
from training.data.formats.layouts import Split
from training.data.indexing.image_folders import FolderIndex, index_image_folder
from training.data.sampling.images import UnreadableImage
from training.measuring.data import DataIdentity, listed
from training.measuring.detectors import DataChoice, now
from training.measuring.measurement import ClassCounts, Measurement
from training.measuring.opening import ModelIdentity, Running, torch_device, torch_precision
from training.measuring.progress import shown
from training.measuring.subjects import WeightsFile

if TYPE_CHECKING:
    import torch

#: What the published ones were trained and measured with.
_INPUT_SIZE = (224, 224)

#: How folders of a split are called.
_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
}


def is_classifier(path: Path) -> bool:
    """Whether these published weights are a classifier's. Raises UnreadableCheckpoint."""
    return recognise(read_published(path).weights) in CLASSIFIERS


class LabelledForClassifier:
    """Images whose labels are the classifier's, some of all where `max_images` is set.

    Classes are found by name. Where the classifier names none, it must have as many as there are
    folders. Raises ValueError where that does not fit.
    """

    def __init__(
        self, index: FolderIndex, classes: Sequence[str], max_images: int | None = None
    ) -> None:
        self.classes = tuple(classes)
        self._index = index
        labels = {name: label for label, name in enumerate(classes)}
        known = np.array([labels.get(name, -1) for name in index.classes], np.int64)
        self.unknown = tuple(name for name in index.classes if name not in labels)
        self.absent = tuple(name for name in classes if name not in index.classes)
        if len(self.unknown) == len(index.classes):
            raise ValueError(
                f"{index.meta.images}: no folder has the name of one of the model's classes: there "
                f"are {listed(index.classes)}, the model has {listed(self.classes)}"
            )
        self._labels = known[index.labels]
        positions = np.flatnonzero(self._labels >= 0)
        if max_images is not None and max_images < len(positions):
            positions = positions[np.arange(max_images) * len(positions) // max_images]
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        return self._index.image_path(int(self._positions[position]))

    def label(self, position: int) -> int:
        """Its class, a position in `classes`."""
        return int(self._labels[self._positions[position]])

    def counts(self) -> dict[str, ClassCounts]:
        """Images of every class that has any."""
        counts = np.bincount(self._labels[self._positions], minlength=len(self.classes))
        pairs = zip(self.classes, counts.tolist(), strict=True)
        return {name: ClassCounts(count, None) for name, count in pairs if count}


def measure_classifier(
    subject: WeightsFile, running: Running, choice: DataChoice, stack: ExitStack
) -> Measurement:
    """Top-1 and top-5. Raises ValueError for what the caller can mend."""
    import torch

    cv2.setNumThreads(0)
    began = time.monotonic()
    precision, device = torch_precision(running.precision), torch_device(running.device)
    checkpoint = read_published(subject.path)
    name = recognise(checkpoint.weights)
    assert name is not None
    index = _index(choice, stack)
    classes = _classes(subject.path, checkpoint, running, index)
    images = LabelledForClassifier(index, classes, choice.max_images)
    input_size = valid_input_size(running.input_size or _INPUT_SIZE)
    config = TrainConfig(
        recipe="evaluation",
        model=ModelConfig(name=name, input_size=input_size),
        data=DataConfig(batch_size=choice.batch_size),
        stages=(StageConfig(name="evaluation"),),
        evaluation=EvaluationConfig(num_threads=len(os.sched_getaffinity(0))),
        runtime=RuntimeConfig(precision=precision),
    )
    network = build_classifier(CLASSIFIERS[name], len(classes))
    load_published(network, checkpoint.weights)
    accuracy = _accuracy(network.to(device), images, config, device, choice)
    where = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    remarks = []
    if images.unknown:
        remarks.append(f"the model does not know {listed(images.unknown)}: not evaluated")
    if images.absent:
        remarks.append(f"the data have no class {listed(images.absent)}: not evaluated")
    return Measurement(
        metrics=accuracy.metrics,
        counts=images.counts(),
        model=ModelIdentity(
            name=subject.path.stem,
            kind="checkpoint",
            version=None,
            variant=name,
            task="classify",
            file=subject.path,
            sha256=file_sha256(subject.path),
            source=None,
        ),
        runtime=f"torch {torch.__version__.partition('+')[0]} {where} {precision}",
        input_size=input_size,
        postprocess=None,
        values=None,
        data=DataIdentity(choice.path, choice.split, "folders"),
        patches=None,
        num_instances=None,
        remarks=tuple(remarks),
        unreadable=accuracy.unreadable,
        date=now(),
        seconds=time.monotonic() - began,
    )


def _accuracy(
    network: CSPNeXtClassifier,
    images: LabelledForClassifier,
    config: TrainConfig,
    device: "torch.device",
    choice: DataChoice,
) -> Accuracy:
    evaluator = AccuracyEvaluator(images, config, device)
    with shown("evaluating") as report:
        accuracy = evaluator.evaluate(network, lambda done, total: not report(done, total))
    assert accuracy is not None
    if accuracy.unreadable and not choice.skips_unreadable:
        raise UnreadableImage(accuracy.unreadable[0])
    return accuracy


def _index(choice: DataChoice, stack: ExitStack) -> FolderIndex:
    if not choice.path.is_dir():
        raise ValueError(f"{choice.path}: there is no such folder")
    folders = [choice.path / name for name in _FOLDERS[choice.split]]
    images = next((folder for folder in folders if folder.is_dir()), None)
    if images is None:
        raise ValueError(
            f"{choice.path}: there is no folder {choice.split} with one folder of images per class "
            f"({choice.split}/<class>/*.jpg)"
        )
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rtmdet-eval-"))
    return index_image_folder(images, folder=Path(folder) / "index")


def _classes(
    path: Path, checkpoint: PublishedCheckpoint, running: Running, index: FolderIndex
) -> tuple[str, ...]:
    num_classes = num_published_classes(checkpoint.weights)
    classes = running.classes or checkpoint.classes
    if classes is None:
        if num_classes != len(index.classes):
            raise ValueError(
                f"{path}: it does not name its {num_classes} classes, and the data have "
                f"{len(index.classes)} folders: name the classes with --classes"
            )
        # As everyone who trained on such folders has numbered them.
        return index.classes
    if len(classes) != num_classes:
        raise ValueError(
            f"{path}: its weights predict {num_classes} classes, but {len(classes)} are named"
        )
    return tuple(classes)
