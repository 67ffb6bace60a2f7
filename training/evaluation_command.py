"""The command `rtmdet eval`: how good a model is, by the standard figures.

rtmdet eval rtmdet-nano-shapes --data shapes/ --settings serving
rtmdet eval runs/shop --data shop/ --report shop.html

Exit codes: 0, 2 for the caller's mistakes, unreadable images included, 130 when interrupted, 1 for
anything else.
"""

import json as json_format
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.checkpoints.class_names import parse_classes
from model.command_line import EXIT_MISTAKE, one_line_errors, parse_input_size

if TYPE_CHECKING:
    from training.measuring.detectors import DataChoice, MeasuredDetector
    from training.measuring.measurement import Measurement
    from training.measuring.opening import Running, ServingRuntimes
    from training.measuring.subjects import Subject, WeightsFile

Repository = Annotated[
    Path, typer.Option(envvar="RTMDET_MODEL_REPOSITORY", help="Folder of exported models.")
]

#: Pixels that patches share where nothing is said: those of the published rotated models.
_OVERLAP = 200

_EXAMPLE = "Example: rtmdet eval rtmdet-tiny-coco --data coco --settings serving --json"


def add_evaluation(app: typer.Typer, serving: "Callable[[], ServingRuntimes]") -> None:
    """Add the command `eval` to `app`; `serving` gives the runtimes that serve, when asked."""

    @app.command("eval", epilog=_EXAMPLE)
    @one_line_errors
    def evaluate(  # noqa: PLR0913 - one parameter for each option of the command
        what: Annotated[
            str,
            typer.Argument(
                help="A run's folder, a checkpoint, a model of the repository (NAME or NAME:2), "
                "or an exported model's folder."
            ),
        ],
        data: Annotated[
            Path, typer.Option(help="A data set: COCO, DOTA, YOLO; of a classifier, folders.")
        ],
        split: Annotated[Literal["val", "train"], typer.Option(help="Which images.")] = "val",
        settings: Annotated[
            Literal["published", "serving"],
            typer.Option(help="Post-processing of the published figures, or exactly serving's."),
        ] = "published",
        runtime: Annotated[
            str | None,
            typer.Option(help="torch (weights), openvino (exported models), or onnxruntime."),
        ] = None,
        precision: Annotated[
            Literal["auto", "float32", "bf16", "f16"] | None,
            typer.Option(help="Where the runtime has it (default: what it serves with)."),
        ] = None,
        device: Annotated[str | None, typer.Option(help="Of torch: cpu, cuda or cuda:1.")] = None,
        max_images: Annotated[
            int | None, typer.Option(min=1, help="At most so many, spread over the whole set.")
        ] = None,
        batch_size: Annotated[
            int, typer.Option(min=1, help="Images at once, where it takes several.")
        ] = 8,
        input_size: Annotated[
            str | None, typer.Option(help="Of weights: 640, or HEIGHTxWIDTH (default: theirs).")
        ] = None,
        model: Annotated[
            str | None, typer.Option(help="Variant of a .pth (default: seen from the weights).")
        ] = None,
        classes: Annotated[
            str | None, typer.Option(help="Of a .pth: coco, dota, names by commas, or a file.")
        ] = None,
        tile: Annotated[
            int | None, typer.Option(min=32, help="Cut large images into patches of that side.")
        ] = None,
        overlap: Annotated[
            int | None,
            typer.Option(min=0, help="Pixels that neighbouring patches share (default: 200)."),
        ] = None,
        skip_unreadable: Annotated[
            bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
        ] = False,
        detections: Annotated[
            Path | None,
            typer.Option(help="Write what was found: COCO's .json; of rotated boxes DOTA's .zip."),
        ] = None,
        report: Annotated[
            Path | None, typer.Option(help="Write curves and the worst images as one .html.")
        ] = None,
        record: Annotated[
            bool, typer.Option("--record", help="Write the figures into the model's manifest.")
        ] = False,
        repository: Repository = Path("triton_repo"),
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    ) -> None:
        """Measure a model on annotated images: average precision, or top-1 and top-5."""
        from training.data.formats.checks import BrokenData
        from training.measuring.detectors import DataChoice
        from training.measuring.opening import Running
        from training.measuring.subjects import find_subject

        outputs = Outputs(detections, report, record, json)
        outputs.require_writable()
        running = Running(
            runtime=runtime,
            precision=precision,
            device=device,
            postprocess=settings,
            variant=model,
            classes=None if classes is None else parse_classes(classes),
            input_size=parse_input_size(input_size),
        )
        choice = DataChoice(
            path=data,
            split=split,
            max_images=max_images,
            batch_size=batch_size,
            patches=patches_of(tile, overlap),
            skips_unreadable=skip_unreadable,
        )
        try:
            with ExitStack() as stack:
                _measure(find_subject(what, repository), running, choice, serving(), outputs, stack)
        except BrokenData as error:
            typer.echo(f"rtmdet: {error.report()}", err=True)
            raise typer.Exit(EXIT_MISTAKE) from None


def patches_of(tile: int | None, overlap: int | None) -> tuple[int, int] | None:
    """Side and overlap of patches in pixels. Raises ValueError for what makes no sense."""
    if tile is None:
        if overlap is not None:
            raise ValueError(f"--overlap {overlap}: say with --tile how large patches are")
        return None
    overlap = _OVERLAP if overlap is None else overlap
    if overlap >= tile:
        raise ValueError(f"--overlap {overlap}: patches of {tile} pixels must share less")
    return tile, overlap


@dataclass(frozen=True)
class Outputs:
    """What becomes of a measurement."""

    detections: Path | None
    report: Path | None
    record: bool
    json: bool

    def require_writable(self) -> None:
        """Raise ValueError for a file that cannot be written: better now than at the end."""
        if self.report is not None and self.report.suffix != ".html":
            raise ValueError(f"--report {self.report}: the report goes into a file NAME.html")
        for option, path in (("--detections", self.detections), ("--report", self.report)):
            if path is None:
                continue
            if path.is_dir():
                raise ValueError(f"{option} {path}: is a folder; name a file")
            if not path.parent.is_dir():
                raise ValueError(f"{option} {path}: there is no folder {path.parent}")
            if not os.access(path.parent, os.W_OK):
                raise ValueError(f"{option} {path}: the folder cannot be written")


def _measure(
    subject: "Subject",
    running: "Running",
    choice: "DataChoice",
    serving: "ServingRuntimes",
    outputs: Outputs,
    stack: ExitStack,
) -> None:
    from model.repository import RepositoryModel
    from training.measuring.opening import open_model, require_runtime
    from training.measuring.recording import require_recordable
    from training.measuring.subjects import WeightsFile

    require_runtime(subject, running.runtime, serving)
    if outputs.record:
        if not isinstance(subject, RepositoryModel):
            raise ValueError("--record: weights have no manifest of evaluations; export them first")
        require_recordable(subject)
    if isinstance(subject, WeightsFile) and subject.path.suffix != ".safetensors":
        from training.measuring.classifiers import is_classifier

        if is_classifier(subject.path):
            _measure_classifier(subject, running, choice, outputs, stack)
            return
    from training.measuring.detection_files import require_suffix
    from training.measuring.detectors import measure_detector

    opened = open_model(subject, running, serving, stack)
    if outputs.detections is not None:
        require_suffix(outputs.detections, rotated=opened.identity.task == "rotated")
    measured = measure_detector(opened, running.postprocess, choice, stack)
    # First what took long, whatever becomes of the files.
    _print(measured.measurement, as_json=outputs.json)
    _write(measured, subject, outputs)


def _measure_classifier(
    subject: "WeightsFile",
    running: "Running",
    choice: "DataChoice",
    outputs: Outputs,
    stack: ExitStack,
) -> None:
    from training.measuring.classifiers import measure_classifier

    given = {
        "--tile": choice.patches is not None,
        "--detections": outputs.detections is not None,
        "--settings serving": running.postprocess == "serving",
    }
    for option, is_given in given.items():
        if is_given:
            raise ValueError(f"{option} concerns detectors, and this is a classifier")
    measured = measure_classifier(subject, running, choice, stack)
    _print(measured.measurement, as_json=outputs.json)
    if outputs.report is not None:
        from training.measuring.reporting import report_classifier

        report_classifier(outputs.report, measured, subject)
        _say(f"report: {outputs.report}")


def _write(measured: "MeasuredDetector", subject: "Subject", outputs: Outputs) -> None:
    from model.repository import RepositoryModel
    from training.measuring.detection_files import write_detections
    from training.measuring.recording import record

    if outputs.detections is not None:
        left_out = write_detections(outputs.detections, measured.evaluated, measured.images)
        if left_out:
            _say(f"{left_out:,} detections of classes that the data do not list are not in it")
        _say(f"detections: {outputs.detections}")
    if outputs.report is not None:
        from training.measuring.reporting import report_detector

        report_detector(outputs.report, measured, subject)
        _say(f"report: {outputs.report}")
    if outputs.record:
        assert isinstance(subject, RepositoryModel)
        record(subject, measured.measurement.as_evaluation())
        _say(f"recorded in the manifest of {subject.name} version {subject.version}")


def _print(measurement: "Measurement", *, as_json: bool) -> None:
    from training.measuring.tables import print_measurement

    for line in measurement.remarks:
        _say(line)
    for line in measurement.unreadable:
        _say(f"left out: {line}")
    if count := len(measurement.unreadable):
        _say(f"{count} image{'s' if count > 1 else ''} could not be read")
    if as_json:
        typer.echo(json_format.dumps(measurement.as_json()))
    else:
        print_measurement(measurement)


def _say(line: str) -> None:
    typer.echo(line, err=True)
