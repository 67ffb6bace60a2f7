"""`rtmdet detect`: detections in pictures, in this process or from a server."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from service.commands.addresses import base_url
from service.commands.options import Model, Repository
from service.detection import DetectOptions
from service.http_api.options import parse_options


def detect(  # noqa: PLR0913 - one parameter for each option of the command
    images: Annotated[list[Path], typer.Argument(help="Pictures to detect in.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures with the detections drawn.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON per picture.")] = False,
    server: Annotated[
        str | None,
        typer.Option(help="Have this server detect, such as http://localhost:8000."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="RTMDET_API_KEY", show_envvar=True, help="Key for the server."),
    ] = None,
    model: Model = None,
    repository: Repository = None,
    score_threshold: Annotated[str | None, typer.Option(help="0 to 1.")] = None,
    iou_threshold: Annotated[str | None, typer.Option(help="0 to 1.")] = None,
    max_detections: Annotated[str | None, typer.Option(help="At most so many.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names or ids, by commas.")] = None,
    mask_format: Annotated[str | None, typer.Option(help="none, rle, polygon or png.")] = None,
) -> None:
    """Detect objects in pictures, in this process or from a server, and print what was found."""
    given = {
        "model": model,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
        "classes": classes,
        "mask_format": mask_format,
    }
    options = parse_options((name, value) for name, value in given.items() if value is not None)
    if server is not None and repository is not None:
        raise ValueError("--server has a repository of its own; give --server or --repository")
    # Each way imports what it needs: a server is asked without a runtime, or any model, here.
    if server is None:
        failed = _here(images, options, repository, out=out, as_json=json)
    else:
        failed = _at_server(server, api_key, images, options, out=out, as_json=json)
    raise typer.Exit(2 if failed else 0)


def _here(
    images: list[Path],
    options: DetectOptions,
    repository: Path | None,
    *,
    out: Path | None,
    as_json: bool,
) -> int:
    from service.commands.detecting_here import detect_here
    from service.settings import load_settings
    from service.wiring import build_detector

    only = None if options.model is None else (options.model,)
    detector = build_detector(load_settings(model_repository=repository, models=only))
    return asyncio.run(detect_here(detector, images, options, out=out, as_json=as_json))


def _at_server(
    server: str,
    api_key: str | None,
    images: list[Path],
    options: DetectOptions,
    *,
    out: Path | None,
    as_json: bool,
) -> int:
    try:
        from service.commands.detecting_at_server import detect_at_server
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    url = base_url(server)
    return asyncio.run(detect_at_server(url, api_key, images, options, out=out, as_json=as_json))
