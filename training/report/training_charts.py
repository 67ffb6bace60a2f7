"""The curves of a training run, from what it recorded (`training/run/progress.py`)."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from markupsafe import Markup

from training.report.charts import NUM_STYLES, Line, Mark, line_chart
from training.report.svg import Axis
from training.run.progress import Record, current_records, read_records
from training.run.run_folder import RunPaths

#: Points of a curve; more cannot be seen. Each is the mean of what it stands for.
_MAX_POINTS = 240


def training_charts(run_folder: Path) -> list[Markup]:
    """Losses, learning rate and metrics over epochs; fewer where less was recorded.

    Raises ValueError where the folder holds no records of a run.
    """
    records = _records(run_folder)
    x_title, place = _epochs(records)
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    last = max([place(record) for record in (*steps, *evaluations)], default=0.0)
    x = Axis(x_title, 0, last or 1)
    marks = _stages(records, place)
    charts: list[Markup] = []
    if steps:
        losses = [_curve(steps, name, place, look) for look, name in enumerate(_losses(steps))]
        y = Axis.around("loss", [line.y for line in losses], low=0)
        charts.append(line_chart("Losses", x, y, losses, marks))
        rate = _curve(steps, "lr", place, 0)
        y = Axis.around("learning rate", [rate.y], low=0)
        charts.append(line_chart("Learning rate", x, y, [rate], marks))
    metrics = _metrics(evaluations)
    if metrics:
        lines = [
            _curve([each["metrics"] | each for each in evaluations], name, place, look)
            for look, name in enumerate(metrics)
        ]
        y = Axis("share", 0, 1)
        charts.append(line_chart("Metrics of the evaluations in training", x, y, lines, marks))
    return charts


def _records(run_folder: Path) -> list[Record]:
    path = RunPaths(run_folder).progress
    try:
        return current_records(read_records(path))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: holds no records of a run ({error}); name the folder that training wrote, "
            "or none"
        ) from None


def _epochs(records: Sequence[Record]) -> tuple[str, Callable[[Record], float]]:
    """What the x axis shows, and where a record stands on it.

    Records count steps. How many make an epoch is known from what is recorded at its end.
    """
    ends = [
        record["step"] / record["epoch"]
        for record in records
        if record["kind"] in ("evaluation", "epoch") and record.get("epoch")
    ]
    if not ends:
        return "step", lambda record: float(record.get("step", 0))
    return "epoch", lambda record: record.get("step", 0) / ends[-1]


def _stages(records: Sequence[Record], place: Callable[[Record], float]) -> list[Mark]:
    """Where a stage follows another; a run that is resumed tells again in which it is."""
    stages = [record for record in records if record["kind"] == "stage"]
    return [
        Mark(place(record), str(record.get("stage")))
        for before, record in pairwise(stages)
        if before.get("stage") != record.get("stage")
    ]


def _losses(steps: Sequence[Record]) -> list[str]:
    names = dict.fromkeys(name for record in steps for name in record if name.startswith("loss"))
    return list(names)[:NUM_STYLES]


def _metrics(evaluations: Sequence[Record]) -> list[str]:
    """Those over all objects; those by size would hide them."""
    names = dict.fromkeys(name for record in evaluations for name in record.get("metrics", {}))
    by_size = ("_small", "_medium", "_large")
    return [name for name in names if not name.endswith(by_size) and "_ar" not in name][:NUM_STYLES]


def _curve(
    records: Sequence[Record], name: str, place: Callable[[Record], float], look: int
) -> Line:
    points = np.array(
        [(place(each), each[name]) for each in records if isinstance(each.get(name), int | float)],
        np.float64,
    ).reshape(-1, 2)
    parts = np.array_split(points, min(len(points), _MAX_POINTS)) if len(points) else []
    means = np.array([part.mean(axis=0) for part in parts]).reshape(-1, 2)
    return Line(name, means[:, 0], means[:, 1], look)
