"""Measuring a classifier: weights in a `.pth` on folders of images, one folder per class."""

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from model.checkpoints.checkpoint_files import PublishedCheckpoint, read_published
from model.classifier import build_classifier
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
from training.config_json import from_json
from training.data.indexing.image_folders import FolderIndex
from training.evaluation.predictors.torch_network import torch_description
from training.measuring.classified_images import LabelledForClassifier, open_folders
from training.measuring.data import DataIdentity
from training.measuring.detectors import DataChoice, now
from training.measuring.measurement import ClassCounts, Measurement
from training.measuring.opening import ModelIdentity, Running, torch_device, torch_precision
from training.measuring.progress import shown
from training.measuring.subjects import WeightsFile
from training.run.run_folder import RunPaths, read_config

#: What the published ones were trained and measured with.
_INPUT_SIZE = (224, 224)


@dataclass(frozen=True, eq=False)
class MeasuredClassifier:
    """The measurement, and all that it was made of."""

    measurement: Measurement
    accuracy: Accuracy
    images: LabelledForClassifier


def is_classifier(path: Path) -> bool:
    """Whether these published weights are a classifier's. Raises UnreadableCheckpoint."""
    return recognise(read_published(path).weights) in CLASSIFIERS


def measure_classifier(
    subject: WeightsFile, running: Running, choice: DataChoice, stack: ExitStack
) -> MeasuredClassifier:
    """Top-1 and top-5. `stack` releases what the images need.

    Raises ValueError for what the caller can mend.
    """
    cv2.setNumThreads(0)
    began = time.monotonic()
    device = torch_device(running.device)
    checkpoint = read_published(subject.path)
    name = recognise(checkpoint.weights)
    assert name is not None
    if running.variant not in (None, name):
        raise ValueError(f"{subject.path}: its weights are those of {name}, not {running.variant}")
    index = open_folders(choice.path, choice.split, stack)
    classes = _classes(subject.path, checkpoint, running, index)
    images = LabelledForClassifier(index, classes, choice.max_images)
    config = _config(name, subject, running, choice)
    network = build_classifier(CLASSIFIERS[name], len(classes))
    load_published(network, checkpoint.weights)
    evaluator = AccuracyEvaluator(images, config, device, skips_unreadable=choice.skips_unreadable)
    with shown("evaluating") as report:
        accuracy = evaluator.evaluate(
            network.to(device), lambda done, total: not report(done, total)
        )
    assert accuracy is not None
    counts = np.bincount(accuracy.guesses.labels, minlength=len(classes)).tolist()
    measurement = Measurement(
        metrics=accuracy.metrics,
        counts={
            name: ClassCounts(count, None)
            for name, count in zip(classes, counts, strict=True)
            if count
        },
        model=_identity(name, subject),
        runtime=torch_description(device, config.runtime.precision),
        input_size=config.model.input_size,
        postprocess=None,
        values=None,
        data=DataIdentity(choice.path, choice.split, "folders"),
        patches=None,
        num_instances=None,
        remarks=tuple(images.remarks()),
        unreadable=accuracy.unreadable,
        date=now(),
        seconds=time.monotonic() - began,
    )
    return MeasuredClassifier(measurement, accuracy, images)


def _config(name: str, subject: WeightsFile, running: Running, choice: DataChoice) -> TrainConfig:
    """What the evaluator wants to know, as a training would say it."""
    return TrainConfig(
        recipe="evaluation",
        model=ModelConfig(name=name, input_size=_input_size(subject, running)),
        data=DataConfig(batch_size=choice.batch_size),
        stages=(StageConfig(name="evaluation"),),
        evaluation=EvaluationConfig(num_threads=len(os.sched_getaffinity(0))),
        runtime=RuntimeConfig(precision=torch_precision(running.precision)),
    )


def _input_size(subject: WeightsFile, running: Running) -> tuple[int, int]:
    """What is asked for, or that of the run, which the weights do not say."""
    if running.input_size is not None:
        return valid_input_size(running.input_size)
    if subject.run is not None and RunPaths(subject.run).config.is_file():
        return from_json(read_config(subject.run)["config"]).model.input_size
    return _INPUT_SIZE


def _identity(name: str, subject: WeightsFile) -> ModelIdentity:
    return ModelIdentity(
        # Every run's best weights are called `best`.
        name=subject.path.stem if subject.run is None else subject.run.resolve().name,
        kind="checkpoint",
        version=None,
        variant=name,
        task="classify",
        file=subject.path,
        sha256=file_sha256(subject.path),
        source=None,
    )


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
