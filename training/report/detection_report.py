"""The report on a detector: figures, curves, confusions, and the worst images as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from training.evaluation.average_precision import primary_metric
from training.evaluation.curves import precision_recall
from training.evaluation.mistake_totals import DUPLICATE_COST, totals_by_class, worst_images
from training.evaluation.mistakes import Judged, Verdict, best_threshold, f1_curve, judged
from training.report import tables
from training.report.heat_map import heat_map, largest_confusions
from training.report.inputs import ReportInputs
from training.report.page import require_folder, write_page
from training.report.pictures import worst_picture
from training.report.precision_charts import (
    class_curves,
    mean_curves,
    reliability,
    score_histogram,
    threshold_chart,
)
from training.report.training_charts import training_charts

#: Images that are shown. With `pictures.MAX_PICTURE_BYTES` this bounds the file: the pictures take
#: at most 5.2 MB, all else about 1 MB with 80 classes.
MAX_PICTURES = 24

_MAX_CONFUSIONS = 12

#: Overlaps of the curves, the first of which is also shown by class.
_IOUS = (0.5, 0.75)


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the report as one HTML file, which is there whole or not at all.

    Raises ValueError for a score threshold outside 0 to 1, a run folder without records and a
    folder that is not there; OSError where the file cannot be written.
    """
    threshold = inputs.score_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"a score threshold of {threshold}: scores lie between 0 and 1")
    require_folder(path)
    training = training_charts(inputs.run_folder) if inputs.run_folder else []
    everything = judged(inputs.task, inputs.evaluated.truth, inputs.evaluated.found)
    f1 = f1_curve(everything)
    chosen = best_threshold(f1) if threshold is None else threshold
    result = everything.at_threshold(chosen)
    values = {
        "threshold": chosen,
        "is_best_threshold": threshold is None,
        "threshold_charts": [
            threshold_chart(f1, chosen),
            score_histogram(everything, chosen),
            reliability(everything),
        ],
        "training_charts": training,
        **_overview(inputs, result),
        **_by_class(inputs, result),
        **_worst(inputs, result),
    }
    write_page(path, "detection.html", values)


def _overview(inputs: ReportInputs, result: Judged) -> dict[str, Any]:
    """What was evaluated, and the sections about all classes together."""
    evaluated = inputs.evaluated
    primary = primary_metric(inputs.task)
    return {
        "title": inputs.title,
        "facts": inputs.facts,
        "unreadable": evaluated.unreadable,
        "num_images": len(evaluated.positions),
        "iou": result.iou,
        "primary_name": primary,
        "primary": evaluated.metrics.values.get(primary),
        "at_threshold": _shares(result),
        "headline": tables.headline_table(evaluated.metrics),
        "kinds": tables.kind_counts(result),
        "size_table": tables.size_table(result, evaluated.metrics),
    }


def _worst(inputs: ReportInputs, result: Judged) -> dict[str, Any]:
    """The section of pictures."""
    positions = inputs.evaluated.positions
    return {
        "worst": [
            worst_picture(result, image, inputs.images, positions[image], inputs.classes)
            for image in worst_images(result, MAX_PICTURES)
        ],
        "duplicate_cost": DUPLICATE_COST,
    }


def _by_class(inputs: ReportInputs, result: Judged) -> dict[str, Any]:
    """The sections that compare classes."""
    evaluated, classes = inputs.evaluated, inputs.classes
    by_iou = {iou: precision_recall(evaluated.comparison, classes, iou) for iou in _IOUS}
    first = by_iou[_IOUS[0]]
    charts: list[Markup] = []
    for kind, curves in first.items():
        charts.append(mean_curves({iou: each[kind] for iou, each in by_iou.items()}, kind))
        charts.append(class_curves(curves, kind, _IOUS[0]))
    matrix = result.confusion(len(classes))
    num_instances = totals_by_class(result, len(classes)).outcomes.sum(axis=1)
    return {
        "class_table": tables.class_table(result, evaluated.metrics, classes, first),
        "curve_charts": charts,
        "confusions": largest_confusions(matrix, classes, num_instances, _MAX_CONFUSIONS),
        "heat_map": heat_map(matrix, classes, background=("nothing there", "missed")),
    }


def _shares(result: Judged) -> Sequence[tuple[str, float]]:
    """Precision, recall and F1 from the threshold on."""
    num_right = int((result.verdicts == Verdict.RIGHT).sum())
    num_detections = int((result.verdicts >= 0).sum())
    num_instances = int(np.sum(~result.truth.ignored))
    return [
        ("precision", num_right / max(num_detections, 1)),
        ("recall", num_right / max(num_instances, 1)),
        ("F1", 2 * num_right / max(num_detections + num_instances, 1)),
    ]
