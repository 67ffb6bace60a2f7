"""Precision over recall, and what a score threshold does: the charts that help to choose one."""

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.evaluation.curves import Curve, over_all_classes
from training.evaluation.mistakes import F1Curve, Judged, Verdict
from training.report.charts import NUM_STYLES, Line, Look, Mark, column_chart, line_chart
from training.report.svg import Axis

#: Classes that have lines of their own, with names, where there are more than that.
_NUM_NAMED = 6

#: Scores are counted in bins of this width.
_BIN = 0.05

_SHARES = Axis("precision", 0, 1)
_RECALL = Axis("recall", 0, 1)


def mean_curves(by_iou: Mapping[float, Mapping[str, Curve]], kind: str) -> Markup:
    """The mean over the classes at each overlap."""
    lines = [
        _line(f"all classes, overlap {iou:g}", over_all_classes(curves), place)
        for place, (iou, curves) in enumerate(by_iou.items())
        if curves
    ]
    return line_chart(
        f"{kind}: precision over recall, mean of all classes", _RECALL, _SHARES, lines
    )


def class_curves(curves: Mapping[str, Curve], kind: str, iou: float) -> Markup:
    """Every class at one overlap; of many the worst are told apart, and the mean."""
    lines: list[Line] = []
    if len(curves) <= NUM_STYLES:
        note = ""
        lines += [_line(name, curve, place) for place, (name, curve) in enumerate(curves.items())]
    else:
        note = (
            f"The {_NUM_NAMED} worst classes by name; each other one is a thin line, and has its "
            "own curve in the table of classes."
        )
        worst = sorted(curves, key=lambda name: float(curves[name].precisions.mean()))
        named = worst[:_NUM_NAMED]
        lines += [_line(name, curves[name], place) for place, name in enumerate(named)]
        lines += [_line(name, curves[name], "faint") for name in worst[_NUM_NAMED:]]
    if len(curves) > 1:
        lines.append(_line("mean", over_all_classes(curves), "mean"))
    title = f"{kind}: precision over recall by class, overlap {iou:g}"
    return line_chart(title, _RECALL, _SHARES, lines, note=note)


def threshold_chart(curve: F1Curve, chosen: float) -> Markup:
    """What each score threshold would give."""
    # Where nothing is found any more, there is no precision.
    precision = np.where(curve.recall > 0, curve.precision, np.nan)
    lines = [
        Line("precision", curve.thresholds, precision, 0),
        Line("recall", curve.thresholds, curve.recall, 1),
        Line("F1", curve.thresholds, curve.f1, "mean"),
    ]
    return line_chart(
        "Precision, recall and F1 over the score threshold",
        Axis("score threshold", 0, 1),
        Axis("share", 0, 1),
        lines,
        [Mark(chosen, f"{chosen:.2f}")],
    )


def score_histogram(judged: Judged, chosen: float) -> Markup:
    """How many detections of each score are right and wrong, as large as those from `chosen` on
    need it: there are often very many weak ones."""
    right, wrong = _binned(judged)
    from_chosen = (right + wrong)[int(chosen / _BIN) :]
    return column_chart(
        "Detections by score",
        Axis("score", 0, 1),
        Axis.around("detections", [1.5 * from_chosen], low=0),
        [("right", "right", right), ("wrong", "wrong", wrong)],
    )


def reliability(judged: Judged) -> Markup:
    """What share of detections of each score is right."""
    right, wrong = _binned(judged)
    total = right + wrong
    shares = np.where(total > 0, right / np.maximum(total, 1), np.nan)
    middles = (np.arange(len(total)) + 0.5) * _BIN
    ends = np.array([0.0, 1.0])
    lines = [
        Line("share that is right", middles, shares, 0),
        Line("as if scores were probabilities", ends, ends, 7),
    ]
    return line_chart(
        "How far a score can be taken at its word",
        Axis("score", 0, 1),
        Axis("share that is right", 0, 1),
        lines,
    )


def _line(name: str, curve: Curve, look: Look) -> Line:
    # A line ends where its recall does.
    precisions = np.where(curve.precisions > 0, curve.precisions, np.nan)
    return Line(name, curve.recalls, precisions, look)


def _binned(judged: Judged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    num_bins = round(1 / _BIN)
    places = np.clip((judged.found.scores / _BIN).astype(np.int64), 0, num_bins - 1)
    right = judged.verdicts == Verdict.RIGHT
    wrong = judged.verdicts > Verdict.RIGHT
    return (
        np.bincount(places[right], minlength=num_bins),
        np.bincount(places[wrong], minlength=num_bins),
    )
