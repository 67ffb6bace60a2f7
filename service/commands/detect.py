"""`rtmdet detect`: detections in pictures, without a server."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from service.codecs.drawing import draw_detections, encode_picture
from service.commands.options import Model, Repository
from service.detection import DetectionResult, DetectOptions
from service.detector import Detector
from service.errors import ServiceError
from service.http_api.options import parse_options
from service.http_api.schemas import detection_json
from service.settings import load_settings
from service.stages import Picture
from service.wiring import build_detector


def detect(  # noqa: PLR0913 - one parameter for each option of the command
    images: Annotated[list[Path], typer.Argument(help="Pictures to detect in.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures with the detections drawn.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON per picture.")] = False,
    model: Model = None,
    repository: Repository = None,
    score_threshold: Annotated[str | None, typer.Option(help="0 to 1.")] = None,
    iou_threshold: Annotated[str | None, typer.Option(help="0 to 1.")] = None,
    max_detections: Annotated[str | None, typer.Option(help="At most so many.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names or ids, by commas.")] = None,
    mask_format: Annotated[str | None, typer.Option(help="none, rle, polygon or png.")] = None,
) -> None:
    """Detect objects in pictures, in this process, and print what was found."""
    given = {
        "model": model,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
        "classes": classes,
        "mask_format": mask_format,
    }
    options = parse_options((name, value) for name, value in given.items() if value is not None)
    only = None if model is None else (model,)
    detector = build_detector(load_settings(model_repository=repository, models=only))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    failed = asyncio.run(_detect_all(detector, images, options, out=out, as_json=json))
    raise typer.Exit(2 if failed else 0)


async def _detect_all(
    detector: Detector,
    images: list[Path],
    options: DetectOptions,
    *,
    out: Path | None,
    as_json: bool,
) -> int:
    """Detect in one picture after the other; a bad one is reported and the rest go on."""
    detector.start()
    failed = 0
    for path, drawn_path in zip(images, _drawn_paths(images, out), strict=True):
        try:
            text = await _detect_one(detector, path, options, drawn_path, as_json=as_json)
        except (ServiceError, OSError) as error:
            failed += 1
            at_fault, reason = path, str(error)
            if isinstance(error, OSError):
                at_fault, reason = error.filename or path, error.strerror or reason
            typer.echo(f"{at_fault}: {reason}", err=True)
        else:
            typer.echo(text)
    await detector.stop()
    return failed


def _drawn_paths(images: list[Path], out: Path | None) -> list[Path | None]:
    """Where each picture is drawn to; pictures of the same name get numbers."""
    if out is None:
        return [None] * len(images)
    taken: Counter[str] = Counter()
    paths: list[Path | None] = []
    for path in images:
        taken[path.stem] += 1
        number = f"-{taken[path.stem]}" if taken[path.stem] > 1 else ""
        paths.append(out / f"{path.stem}{number}.detected.jpg")
    return paths


async def _detect_one(
    detector: Detector,
    path: Path,
    options: DetectOptions,
    drawn_path: Path | None,
    *,
    as_json: bool,
) -> str:
    data = path.read_bytes()

    def present(result: DetectionResult, picture: Picture) -> str:
        if drawn_path is not None:
            drawn = draw_detections(picture().pixels_bgr, result.detections)
            drawn_path.write_bytes(encode_picture(drawn, "jpeg"))
        if as_json:
            return detection_json(result, str(path), options.mask_format).decode()
        return _listing(path, result, drawn_path)

    return await detector.detect(data, options, present)


def _counted(result: DetectionResult) -> str:
    count = len(result.detections)
    return f"{count} detection" if count == 1 else f"{count} detections"


def _listing(path: Path, result: DetectionResult, drawn_path: Path | None) -> str:
    """What a person reads: a line per picture, a line per detection."""
    milliseconds = round(result.timings.total_s * 1000)
    lines = [f"{path}: {_counted(result)}, {result.model.name}, {milliseconds} ms"]
    for found in result.detections:
        x1, y1, x2, y2 = (round(side) for side in found.box)
        lines.append(f"  {found.score:.2f}  {found.label:<20} {x1},{y1} - {x2},{y2}")
    if drawn_path is not None:
        lines.append(f"  drawn: {drawn_path}")
    return "\n".join(lines)
