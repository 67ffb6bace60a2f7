"""The report on a classifier: how often it is right, what it confuses, and where it is surest of
what is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.data.decoding import decode_file
from training.report.charts import Line, column_chart, line_chart
from training.report.heat_map import heat_map, largest_confusions
from training.report.page import require_folder, write_page
from training.report.pictures import data_uri
from training.report.svg import Axis
from training.report.tables import Cell, Table, count, named, share, text
from training.report.training_charts import training_charts

#: Images that are shown, and their longer side; together at most about 3 MB.
MAX_PICTURES = 36
_SIDE = 240

_MAX_CONFUSIONS = 12
_NUM_BINS = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassifierReportInputs:
    """Everything that a report of a classifier shows.

    `labels` int64 [n] are the classes of the images at `paths`; `guesses` int64 [n, k] what they
    were taken for, the likeliest first, with `probabilities` [n, k]. `metrics` are shown as they
    are named. `unreadable` has a line for each image that was left out. `facts` and `run_folder`
    as in a detector's report.
    """

    labels: NDArray[np.int64]
    guesses: NDArray[np.int64]
    probabilities: NDArray[np.floating]
    paths: Sequence[Path]
    classes: Sequence[str]
    metrics: Mapping[str, float]
    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    unreadable: Sequence[str] = ()
    run_folder: Path | None = None


def write_classifier_report(path: Path, inputs: ClassifierReportInputs) -> None:
    """Write the report as one HTML file, which is there whole or not at all.

    Raises ValueError where nothing was evaluated, for a run folder without records and a folder
    that is not there; OSError where the file cannot be written.
    """
    if not len(inputs.labels):
        raise ValueError("there is nothing to report: no image was evaluated")
    require_folder(path)
    classes, labels, first = inputs.classes, inputs.labels, inputs.guesses[:, 0]
    num_classes = len(classes)
    matrix = np.bincount(labels * num_classes + first, minlength=num_classes**2)
    matrix = matrix.reshape(num_classes, num_classes)
    per_class = np.bincount(labels, minlength=num_classes)
    values = {
        "title": inputs.title,
        "facts": inputs.facts,
        "metrics": inputs.metrics,
        "num_images": len(labels),
        "unreadable": inputs.unreadable,
        "class_table": _class_table(inputs, matrix),
        "confusions": largest_confusions(matrix, classes, per_class, _MAX_CONFUSIONS),
        "heat_map": heat_map(matrix, classes),
        "charts": _confidence_charts(inputs),
        "worst": _surest_mistakes(inputs),
        "training_charts": training_charts(inputs.run_folder) if inputs.run_folder else [],
    }
    write_page(path, "classification.html", values)


def _class_table(inputs: ClassifierReportInputs, matrix: NDArray[np.int64]) -> Table:
    is_among = inputs.guesses == inputs.labels[:, None]
    rows: list[list[Cell]] = []
    for label, name in enumerate(inputs.classes):
        of_class = is_among[inputs.labels == label]
        num_taken = int(matrix[:, label].sum())
        others = matrix[label].copy()
        others[label] = 0
        worst = int(others.argmax())
        rows.append(
            [
                named(name),
                count(len(of_class)),
                share(float(of_class[:, 0].mean()) if len(of_class) else None),
                share(float(of_class[:, :5].any(axis=1).mean()) if len(of_class) else None),
                share(int(matrix[label, label]) / num_taken if num_taken else None),
                count(len(of_class) - int(matrix[label, label])),
                text(f"{inputs.classes[worst]} ({others[worst]})" if others[worst] else ""),
            ]
        )
    header = ["class", "images", "top-1", "top-5", "precision", "wrong", "most often taken for"]
    return Table(header, rows, is_sortable=True)


def _confidence_charts(inputs: ClassifierReportInputs) -> list[Markup]:
    """How many images are guessed with each probability, and how often that is right."""
    is_right = inputs.guesses[:, 0] == inputs.labels
    bins = np.clip((inputs.probabilities[:, 0] * _NUM_BINS).astype(int), 0, _NUM_BINS - 1)
    right = np.bincount(bins[is_right], minlength=_NUM_BINS)
    wrong = np.bincount(bins[~is_right], minlength=_NUM_BINS)
    total = right + wrong
    shares = np.where(total > 0, right / np.maximum(total, 1), np.nan)
    middles, ends = (np.arange(_NUM_BINS) + 0.5) / _NUM_BINS, np.array([0.0, 1.0])
    probability = Axis("probability of the first guess", 0, 1)
    return [
        column_chart(
            "Images by probability",
            probability,
            Axis.around("images", [total], low=0),
            [("right", "right", right), ("wrong", "wrong", wrong)],
        ),
        line_chart(
            "How far a probability can be taken at its word",
            probability,
            Axis("share that is right", 0, 1),
            [Line("share that is right", middles, shares, 0), Line("as said", ends, ends, 7)],
        ),
    ]


def _surest_mistakes(inputs: ClassifierReportInputs) -> list[dict[str, Any]]:
    """The images that are wrong with the highest probability."""
    wrong = np.flatnonzero(inputs.guesses[:, 0] != inputs.labels)
    order = wrong[np.argsort(-inputs.probabilities[wrong, 0], kind="stable")][:MAX_PICTURES]
    return [
        {
            "name": inputs.paths[row].name,
            "picture": _picture(inputs.paths[row]),
            "is": inputs.classes[int(inputs.labels[row])],
            "guess": inputs.classes[int(inputs.guesses[row, 0])],
            "probability": float(inputs.probabilities[row, 0]),
        }
        for row in order.tolist()
    ]


def _picture(path: Path) -> str:
    """A data URI, "" for an image that is gone or cannot be read any more."""
    try:
        pixels = decode_file(path)
    except OSError:
        return ""
    if pixels is None:
        return ""
    height, width = pixels.shape[:2]
    scale = min(_SIDE / max(height, width), 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return data_uri(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))  # type: ignore[arg-type]
