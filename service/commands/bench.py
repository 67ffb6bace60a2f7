"""`rtmdet bench`: how a server answers pictures that come at a given rate, whatever it does."""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from model.command_line import print_whole
from service.commands.addresses import is_address, with_scheme
from service.commands.options import Model
from service.load_testing.request_bytes import (
    BODIES,
    Picture,
    RequestShape,
    Target,
    is_secret,
    parse_header,
    parse_option,
    parse_target,
)
from service.load_testing.schedule import ARRIVALS

if TYPE_CHECKING:
    # What the other commands do without is loaded when this one runs.
    from service.load_testing.report import Bench

_DEFAULT_URL = "http://localhost:8000/detect"

#: The generator fell behind, or nothing was answered: there is a report, but no result.
_EXIT_NO_RESULT = 1

#: Longest side of the bench's own picture.
_MAX_SIDE = 8192

#: In the place of what is nobody's business.
_HIDDEN = "…"

Choice = TypeVar("Choice", bound=str)

EPILOG = (
    "Example: rtmdet bench --rates 10,20,40 --deadline 250ms --plot bench.html street.jpg. "
    "Another server: rtmdet bench http://localhost:9001/predict --body multipart --field file. "
    "Latency counts from when a request should have left, not from when it did, so that "
    "percentiles hold the waiting of everybody who came while the server was slow; they are of "
    "answered requests. A run in which the generator itself fell behind is marked invalid, and "
    "the exit code is 1. "
    "With --slo the rate is doubled from --rate until an objective breaks, then bisected to 5 %. "
    "A rate counts as kept, or as broken, when two runs with different arrivals agree; "
    "there, what is refused or fails counts like an answer that never comes. The "
    "result says how many requests missed the objective, and with 95 % confidence how many do."
)


def bench(  # noqa: PLR0913 - one parameter for each option of the command
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL] [IMAGE]...",
            help=f"Where to send (default: {_DEFAULT_URL}; a URL without a path gets /detect), and "
            "pictures to send in turn (default: one of the bench's own).",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Requests per second; with --slo, where the search begins.")
    ] = 20.0,
    rates: Annotated[
        str | None, typer.Option(help="Several rates by commas, one after the other: 5,10,20.")
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(help="Find the highest rate that keeps p99=50ms or goodput=0.99; repeatable."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measured time of each run.")] = 30.0,
    warm_up: Annotated[float, typer.Option(help="Seconds before it that do not count.")] = 3.0,
    pause: Annotated[float, typer.Option(help="Seconds between two runs.")] = 1.0,
    arrivals: Annotated[str, typer.Option(help=f"{', '.join(ARRIVALS)}.")] = ARRIVALS[0],
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.")] = 0,
    deadline: Annotated[
        str | None, typer.Option(help="Later answers are late, such as 250ms.")
    ] = None,
    send_timeout_ms: Annotated[
        bool,
        typer.Option("--send-timeout-ms", help="Tell the server the deadline, as timeout_ms."),
    ] = False,
    timeout: Annotated[
        str, typer.Option(help="A request without an answer for so long has failed.")
    ] = "30s",
    model: Model = None,
    mask_format: Annotated[str | None, typer.Option(help="none, rle, polygon or png.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Any option of the request, name=value; repeatable.")
    ] = None,
    method: Annotated[str, typer.Option(help="HTTP method.")] = "POST",
    body: Annotated[str, typer.Option(help=f"{', '.join(BODIES)}.")] = BODIES[0],
    field: Annotated[str, typer.Option(help="Form field of a multipart body.")] = "image",
    json_field: Annotated[
        str, typer.Option(help="Where the base64 stands in a JSON body; dots lead into objects.")
    ] = "image.base64",
    header: Annotated[
        list[str] | None, typer.Option(help="'Name: value', also instead of ours; repeatable.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="RTMDET_API_KEY", help="Sent as X-API-Key; stands in no report."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take any certificate of an https server.")
    ] = False,
    connections: Annotated[int, typer.Option(min=1, help="Open at once, at most.")] = 1000,
    max_lag: Annotated[
        str, typer.Option(help="A p99 of the generator's own lag above this is invalid.")
    ] = "20ms",
    picture_size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of the bench's own picture.")
    ] = "640x480",
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write everything as JSON; - for stdout."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the result: a name in .html, .svg or .png.")
    ] = None,
) -> None:
    """Measure latency and goodput of a server under requests that come at a given rate."""
    from service.load_testing.campaign import RunPlan
    from service.load_testing.objectives import parse_objective, parse_time_s
    from service.load_testing.order import BenchOrder, carry_out
    from service.load_testing.plot import require_format
    from service.load_testing.progress import Progress

    if plot is not None:
        require_format(plot)
    _require_folders(json_file, plot)
    plan = RunPlan(
        seconds=_positive("--seconds", seconds),
        warm_up_s=_not_negative("--warm-up", warm_up),
        pause_s=_not_negative("--pause", pause),
        arrivals=_choice("--arrivals", arrivals, ARRIVALS),
        seed=seed,
        deadline_s=None if deadline is None else parse_time_s(deadline),
        max_lag_s=parse_time_s(max_lag),
    )
    headers = [*(header or []), *([] if api_key is None else [f"X-API-Key: {api_key}"])]
    named = {"model": model, "mask_format": mask_format}
    named["timeout_ms"] = _timeout_ms(plan.deadline_s) if send_timeout_ms else None
    shape = RequestShape(
        method=method.upper(),
        body=_choice("--body", body, BODIES),
        field=field,
        json_field=json_field,
        options=[
            *((name, value) for name, value in named.items() if value is not None),
            *map(parse_option, option or []),
        ],
        headers=[parse_header(each) for each in headers],
    )
    url, paths = _parted(targets or [])
    order = BenchOrder(
        target=_target(url),
        shape=shape,
        pictures=_pictures(paths, picture_size),
        plan=plan,
        rates_per_s=_rates(rates) if rates is not None else [_positive("--rate", rate)],
        objectives=[parse_objective(each) for each in slo or []],
        timeout_s=parse_time_s(timeout),
        max_connections=connections,
        takes_any_certificate=insecure,
        command=_shown_command(sys.argv, shape.headers),
    )
    found = carry_out(order, Progress(sys.stderr))
    _write(found, json_file, plot)
    raise typer.Exit(0 if found.is_sound else _EXIT_NO_RESULT)


def _write(found: "Bench", json_file: str | None, plot: Path | None) -> None:
    from service.load_testing.plot import write_plot
    from service.load_testing.report import bench_json
    from service.load_testing.tables import print_bench

    if json_file == "-":
        print_whole(json.dumps(bench_json(found), indent=1))
    else:
        print_bench(found)
    if json_file not in (None, "-"):
        text = json.dumps(bench_json(found), indent=1)
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    if plot is not None:
        write_plot(found, plot)


def _require_folders(*files: str | Path | None) -> None:
    """What cannot be written afterwards is told before an hour of runs."""
    for file in files:
        if file is not None and not Path(file).parent.is_dir():
            raise ValueError(f"{file}: there is no folder {Path(file).parent}; make it first")


def _parted(targets: Sequence[str]) -> tuple[str, list[Path]]:
    """The URL, and the pictures."""
    urls = [with_scheme(each) for each in targets if is_address(each)]
    if len(urls) > 1:
        raise ValueError(f"{', '.join(urls)}: one server at a time; give one URL")
    return (urls or [_DEFAULT_URL])[0], [Path(each) for each in targets if not is_address(each)]


def _target(url: str) -> Target:
    """Where requests go: without a path, to where ours takes pictures."""
    target = parse_target(url)
    if target.resource != "/" or url.endswith("?"):
        return target
    typer.echo(
        f"{url} has no path: sending to {target.origin}/detect "
        f"(for the root, write {target.origin}/?)",
        err=True,
    )
    return replace(target, resource="/detect")


def _pictures(paths: Sequence[Path], size: str) -> list[Picture]:
    from service.load_testing.pictures import photograph, read_pictures

    if paths:
        return read_pictures(paths)
    width, cross, height = size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--picture-size {size}: write WIDTHxHEIGHT in pixels, such as 640x480")
    sides = int(width), int(height)
    if not all(8 <= side <= _MAX_SIDE for side in sides):
        raise ValueError(f"--picture-size {size}: sides have 8 to {_MAX_SIDE} pixels")
    return [photograph(*sides)]


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--rates {text}: write numbers by commas, such as 5,10,20") from None
    return [_positive("--rates", rate) for rate in rates]


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {value:g}: must be above 0")
    return value


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {value:g}: must be 0 or more")
    return value


def _choice(name: str, value: str, choices: tuple[Choice, ...]) -> Choice:
    for each in choices:
        if each == value:
            return each
    raise ValueError(f"{name} {value}: choose {', '.join(choices[:-1])} or {choices[-1]}")


def _timeout_ms(deadline_s: float | None) -> str:
    if deadline_s is None:
        raise ValueError("--send-timeout-ms sends the deadline; give a --deadline as well")
    return str(max(1, round(1000 * deadline_s)))


def _shown_command(arguments: Sequence[str], headers: Sequence[tuple[str, str]]) -> str:
    """The command line for the report, without what headers keep secret."""
    shown = shlex.join(["rtmdet", *arguments[1:]])
    for name, value in headers:
        if is_secret(name) and value:
            shown = shown.replace(value, _HIDDEN).replace(shlex.quote(value), _HIDDEN)
    return shown
