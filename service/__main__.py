"""The commands of the service: `rtmdet serve` and `rtmdet detect`."""

import asyncio
import logging
import os
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from service.codecs.drawing import draw_detections, encode_picture
from service.detection import DetectionResult, DetectOptions
from service.detector import Detector, Picture
from service.errors import ServiceError
from service.http_api.options import parse_options
from service.http_api.schemas import detection_json
from service.settings import Settings, SettingsError, load_settings
from service.wiring import build_detector

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Repository = Annotated[
    Path | None, typer.Option(help="Folder of models (default: RTMDET_MODEL_REPOSITORY).")
]
Model = Annotated[str | None, typer.Option(help="Model that answers (default: the first one).")]


@app.command(epilog="Example: rtmdet serve --port 8000 --repository triton_repo")
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    repository: Repository = None,
    default_model: Annotated[
        str | None, typer.Option(help="Answers requests that name no model.")
    ] = None,
) -> None:
    """Serve the models of a repository over HTTP until stopped."""
    settings = load_settings(
        host=host, port=port, model_repository=repository, default_model=default_model
    )
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Bound before the models are loaded: a port that is taken is known at once.
    listener = _listen(settings)
    run_server(build_detector(settings), settings, listener)


def run_server(detector: Detector, settings: Settings, listener: socket.socket) -> None:
    """Serve on a bound socket until a signal comes."""
    import uvicorn

    from service.http_api.app import create_app

    config = uvicorn.Config(
        create_app(detector, max_buffered_bytes=settings.max_buffered_bytes),
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        # A client that does not read its answer must not keep the server from ending.
        timeout_graceful_shutdown=settings.request_timeout_ms // 1000 + 5,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger(__name__).info("ready: http://%s:%d/detect, /docs", shown, port)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet: until the models are loaded, connections are refused
    and do not wait for an answer."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((settings.host, settings.port))
        return listener
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; "
            "choose another --host or --port"
        ) from error


@app.command(epilog="Example: rtmdet detect street.jpg --out drawn/ --score-threshold 0.4")
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


if __name__ == "__main__":
    sys.exit(app())
