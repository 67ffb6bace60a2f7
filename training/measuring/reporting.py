"""A measurement with all that it was made of, as a report for people: one HTML file. Torch-free."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from training.measuring.detectors import MeasuredDetector
from training.measuring.measurement import Measurement
from training.measuring.subjects import Subject, WeightsFile
from training.report.classification_report import ClassifierReportInputs, write_classifier_report
from training.report.detection_report import write_report
from training.report.inputs import ReportInputs
from training.run.run_folder import RunPaths

if TYPE_CHECKING:
    from training.measuring.classifiers import MeasuredClassifier


def report_detector(path: Path, measured: MeasuredDetector, subject: Subject) -> None:
    """Write what went wrong, with pictures; the file is there whole or not at all."""
    measurement = measured.measurement
    assert measurement.values is not None
    # What serving shows is judged as it is shown; else the threshold is chosen.
    as_served = measurement.postprocess == "serving"
    inputs = ReportInputs(
        # Those that could not even be indexed are left out too.
        evaluated=replace(measured.evaluated, unreadable=measurement.unreadable),
        images=measured.images,
        classes=measured.images.classes,
        title=_title(measurement),
        facts=measurement.facts(),
        score_threshold=measurement.values.score_threshold if as_served else None,
        run_folder=_recorded_run(subject),
    )
    write_report(path, inputs)


def report_classifier(path: Path, measured: "MeasuredClassifier", subject: Subject) -> None:
    """The same of a classifier."""
    measurement, guesses = measured.measurement, measured.accuracy.guesses
    inputs = ClassifierReportInputs(
        labels=guesses.labels,
        guesses=guesses.guesses,
        probabilities=guesses.probabilities,
        paths=[measured.images.image_path(position) for position in guesses.positions.tolist()],
        classes=measured.images.classes,
        metrics=measurement.metrics.values,
        title=_title(measurement),
        facts=measurement.facts(),
        unreadable=measurement.unreadable,
        run_folder=_recorded_run(subject),
    )
    write_classifier_report(path, inputs)


def _title(measurement: Measurement) -> str:
    return f"{measurement.model.name} on {measurement.data.name}"


def _recorded_run(subject: Subject) -> Path | None:
    """The folder of the run, where it recorded how it went."""
    run = subject.run if isinstance(subject, WeightsFile) else None
    return run if run is not None and RunPaths(run).progress.is_file() else None
