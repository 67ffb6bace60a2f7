"""Measuring a detector: the model is opened, the data are read, and both meet in the evaluator."""

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from training.data.formats.layouts import Split
from training.evaluation.evaluator import (
    Evaluated,
    EvaluationSettings,
    Evaluator,
    Postprocessing,
)
from training.evaluation.tiles import TiledImages
from training.measuring.data import DataIdentity, LabelledForModel, open_images
from training.measuring.measurement import ClassCounts, Measurement
from training.measuring.opening import OpenedModel
from training.measuring.progress import shown


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which images, and how they are taken.

    `patches` are (side, overlap) in pixels, in which large images are cut; None takes them whole.
    """

    path: Path
    split: Split = "val"
    max_images: int | None = None
    batch_size: int = 8
    patches: tuple[int, int] | None = None
    skips_unreadable: bool = False


@dataclass(frozen=True, eq=False)
class MeasuredDetector:
    """The measurement, and all that it was made of."""

    measurement: Measurement
    evaluated: Evaluated
    images: LabelledForModel


def measure_detector(
    opened: OpenedModel, postprocess: Postprocessing, choice: DataChoice, stack: ExitStack
) -> MeasuredDetector:
    """Measure it, opened for that post-processing. `stack` releases what the images need.

    Raises ValueError for what the caller can mend, an unreadable image included.
    """
    # The threads are ours: those that read, and those of the runtime.
    cv2.setNumThreads(0)
    began = time.monotonic()
    images, identity = _read(opened, choice, stack)
    settings = EvaluationSettings(
        task=opened.predictor.task,
        input_size=opened.predictor.input_size,
        batch_size=choice.batch_size,
        num_threads=len(os.sched_getaffinity(0)),
        max_images=choice.max_images,
        postprocess=postprocess,
        thresholds=opened.thresholds,
        skips_unreadable=choice.skips_unreadable,
    )
    windows = None if choice.patches is None else TiledImages(images, *choice.patches)
    evaluator = Evaluator(images, settings, windows)
    with shown("evaluating", "images" if windows is None else "patches") as report:
        evaluated = evaluator.evaluate(
            opened.predictor, lambda done, total: not report(done, total)
        )
    assert evaluated is not None
    measurement = _measurement(opened, images, identity, settings, evaluated, choice, began)
    return MeasuredDetector(measurement, evaluated, images)


def _read(
    opened: OpenedModel, choice: DataChoice, stack: ExitStack
) -> tuple[LabelledForModel, DataIdentity]:
    # Never into the user's data, which may be read-only and shared.
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rtmdet-eval-"))
    with shown("reading") as report:
        return open_images(
            choice.path,
            choice.split,
            task=opened.predictor.task,
            classes=opened.classes,
            folder=Path(folder),
            progress=report,
            skips_unreadable=choice.skips_unreadable,
        )


def _measurement(
    opened: OpenedModel,
    images: LabelledForModel,
    identity: DataIdentity,
    settings: EvaluationSettings,
    evaluated: Evaluated,
    choice: DataChoice,
    began: float,
) -> Measurement:
    truth = evaluated.truth
    wanted = truth.labels[~truth.ignored]
    instances = np.bincount(wanted, minlength=len(images.classes))
    detections = np.bincount(evaluated.found.labels, minlength=len(images.classes))
    counts = {
        name: ClassCounts(int(instances[label]), int(detections[label]))
        for label, name in enumerate(images.classes)
        if instances[label] or detections[label]
    }
    return Measurement(
        metrics=evaluated.metrics,
        counts=counts,
        model=opened.identity,
        runtime=opened.predictor.description,
        input_size=settings.input_size,
        postprocess=settings.postprocess,
        values=settings.postprocess_settings,
        data=identity,
        patches=choice.patches,
        num_instances=len(wanted),
        remarks=tuple(images.remarks()),
        unreadable=(*images.unreadable, *evaluated.unreadable),
        date=now(),
        seconds=time.monotonic() - began,
    )


def now() -> str:
    """This moment, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
