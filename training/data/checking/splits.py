"""Reads a split as training does, with every check looking on."""

from collections.abc import Callable
from dataclasses import replace

from training.data.checking.annotations import AnnotationChecks, CheckedFor
from training.data.checking.findings import FindingLog
from training.data.checking.reader_problems import LoggedFindings
from training.data.checking.survey import Survey
from training.data.formats.checks import BrokenData
from training.data.formats.layouts import DataSource
from training.data.formats.readers import open_records
from training.data.indexing.detection_index import require_trainable
from training.data.indexing.recording import Recorder


def read_split(
    source: DataSource,
    log: FindingLog,
    checked_for: CheckedFor,
    *,
    classes: tuple[str, ...] | None,
    progress: Callable[[int, int], None],
) -> Survey:
    """The survey of a split; what is found goes to `log`, what training would refuse too.

    `classes`: those that train has, for the split that is evaluated on; None for train itself.
    """
    survey = Survey(source)
    findings = LoggedFindings(source.path, log, source.split)
    try:
        _read(survey, findings, log, checked_for, classes, progress)
    except BrokenData as error:
        findings.log_end(error)
    return survey


def _read(
    survey: Survey,
    findings: LoggedFindings,
    log: FindingLog,
    checked_for: CheckedFor,
    classes: tuple[str, ...] | None,
    progress: Callable[[int, int], None],
) -> None:
    task = checked_for.task
    stream = open_records(survey.source, findings, with_outlines=task != "detect")
    survey.are_upright = stream.are_upright
    if not callable(stream.categories):
        survey.listed = tuple(category.name for category in stream.categories)
    recorder = Recorder(task, findings, stream.categories, classes)
    # As `training.datasets` does: what is evaluated on is kept whole.
    is_train = survey.split == "train"
    keeps_empty = checked_for.keep_images_without_boxes or not is_train
    min_side = checked_for.min_image_side if is_train else 0
    checked_for = replace(
        checked_for, min_image_side=min_side, keep_images_without_boxes=keeps_empty
    )
    checks = AnnotationChecks(survey, log, checked_for)
    for done, image in enumerate(stream.images, 1):
        recorder.add(image, keep_empty=keeps_empty, min_side=min_side)
        checks.check(image)
        progress(done, stream.num_images)
    checks.finish()
    survey.classes = tuple(category.name for category in recorder.ordered_categories())
    survey.is_complete = True
    require_trainable(survey.source, recorder)
    survey.is_sound = True
