"""The doctor for data sets: puts the checks in order, and says whether training would refuse.

Whether it would is what the readers of training say (`training.datasets.index_data` calls the
same), plus how many images a run replaces before it stops.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.config import Task
from training.config import TrainConfig
from training.data.checking.annotations import CheckedFor
from training.data.checking.classes import check_classes
from training.data.checking.findings import Finding, FindingLog, Place
from training.data.checking.images import ImagesChecked, Reading, check_images
from training.data.checking.progress import Progress
from training.data.checking.reader_problems import log_broken
from training.data.checking.report import CheckReport, reported_finding, reported_split
from training.data.checking.splits import read_split
from training.data.checking.survey import Survey
from training.data.checking.tasks import likely_task
from training.data.formats.checks import BrokenData
from training.data.formats.layouts import DataSource, DataSources, find_data
from training.recipes import recipe

#: What a task is checked for where no recipe is named: its settings are those of all sizes.
_RECIPES: dict[Task, str] = {
    "detect": "rtmdet-tiny",
    "instance": "rtmdet-ins-tiny",
    "rotated": "rtmdet-r-tiny",
}


@dataclass(frozen=True)
class Request:
    """What is to be checked. Without a task or recipe the annotations say what they are for."""

    path: Path
    task: Task | None = None
    recipe: str | None = None
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Checked:
    """The outcome, and what the page draws."""

    report: CheckReport
    findings: tuple[Finding, ...]
    surveys: tuple[Survey, ...]


def check_data(request: Request, reading: Reading, progress: Progress) -> Checked:
    """Check a data set.

    Raises ValueError: no folder, no data set there, or none for the task.
    """
    log = FindingLog()
    config = _config_of(request)
    try:
        sources = find_data(request.path, _task_of(config))
    except BrokenData as error:
        # YOLO's `data.yaml`, without which nothing is found.
        log_broken(error, log, "train")
        return _outcome(request, config, log, [], ImagesChecked(0, Counter()))
    if _is_guessed(request):
        config = recipe(_RECIPES[likely_task(sources.train)])
    surveys = _read_splits(sources, log, _checked_for(request, config), progress)
    check_classes(surveys, log)
    looked_at = check_images(surveys, log, reading, progress)
    return _outcome(request, config, log, surveys, looked_at)


def _config_of(request: Request) -> TrainConfig:
    """The recipe that is asked for; boxes, for now, where nothing is."""
    if request.recipe is None:
        return recipe(_RECIPES[request.task or "detect"])
    config = recipe(request.recipe)
    if config.model.is_classifier:
        raise ValueError(
            f"the recipe {request.recipe} trains a classifier, on folders of images; what is "
            "checked are data of detectors: name a recipe of one"
        )
    if request.task not in (None, _task_of(config)):
        raise ValueError(
            f"the recipe {request.recipe} is of the task '{_task_of(config)}': leave --task out"
        )
    return config


def _task_of(config: TrainConfig) -> Task:
    task = config.model.task
    assert task != "classify"
    return task


def _is_guessed(request: Request) -> bool:
    return request.task is None and request.recipe is None


def _checked_for(request: Request, config: TrainConfig) -> CheckedFor:
    return CheckedFor(
        task=_task_of(config),
        input_size=request.input_size or config.model.input_size,
        min_image_side=config.data.min_image_side,
        keep_images_without_boxes=config.data.keep_images_without_boxes,
    )


def _read_splits(
    sources: DataSources, log: FindingLog, checked_for: CheckedFor, progress: Progress
) -> list[Survey]:
    def told(source: DataSource) -> Callable[[int, int], None]:
        return lambda done, total: progress(f"reading {source.split}", done, total)

    train = read_split(sources.train, log, checked_for, classes=None, progress=told(sources.train))
    if sources.val is None:
        log.add("missing-val", "val", Place(sources.train.path))
        return [train]
    # Without classes of train, those of val cannot be compared with anything.
    classes = train.classes or None
    val = read_split(sources.val, log, checked_for, classes=classes, progress=told(sources.val))
    return [train, val]


def _outcome(
    request: Request,
    config: TrainConfig,
    log: FindingLog,
    surveys: list[Survey],
    images: ImagesChecked,
) -> Checked:
    findings = tuple(log)
    reported = tuple(map(reported_finding, findings))
    input_size = request.input_size or config.model.input_size
    num_replaced, num_left_out = (images.num_undecodable[split] for split in ("train", "val"))
    report = CheckReport(
        path=str(request.path),
        format=surveys[0].source.format if surveys else None,
        task=_task_of(config),
        task_is_guessed=_is_guessed(request),
        recipe=config.recipe,
        input_size=input_size,
        num_decoded=images.num_decoded,
        refused=any(each.refuses for each in reported),
        stops=num_replaced > config.data.max_unreadable,
        num_replaced=num_replaced,
        max_unreadable=config.data.max_unreadable,
        num_left_out=num_left_out,
        classes=surveys[0].classes if surveys else (),
        splits=tuple(reported_split(survey, input_size) for survey in surveys),
        findings=reported,
    )
    return Checked(report, findings, tuple(surveys))
