"""Boxes, masks and rotated boxes over HTTP: start the server, post pictures, show the answers.

    python examples/demo.py
    python examples/demo.py --picture street.jpg --model rtmdet-tiny-coco

Prints what was found and where the answers and the drawn pictures lie. The client half uses the
standard library alone: it is what any program would do.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RTMDET = Path(sys.executable).with_name("rtmdet")
OUT = Path("out/demo")

#: The project's own models, one for each task.
_OWN = ("rtmdet-nano-shapes", "rtmdet-ins-nano-shapes", "rtmdet-r-nano-shapes")
MODELS = tuple(name for name in _OWN if (PROJECT / "triton_repo" / name).is_dir())
PICTURES = sorted((PROJECT / "examples/pictures").glob("*.jpg"))

#: How long the server may take to be ready, to answer, and to end.
READY_WITHIN_S = 60
ANSWER_WITHIN_S = 60
ENDED_WITHIN_S = 30

#: The server is on this machine: no proxy that the environment names leads there.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> int:
    """Run the demonstration; the exit code says whether it worked."""
    options = parse_arguments()
    pictures, models = options.picture, options.model
    OUT.mkdir(parents=True, exist_ok=True)
    say(f"Starting the server with {', '.join(models)}")
    with server(models, options.repository) as url:
        for model in models:
            for picture in pictures:
                demonstrate(url, model, picture)
    say(f"\nAnswers (.json) and drawn pictures (.jpg) lie in {OUT}/")
    say("\nWhat to try next:")
    here = Path.cwd()
    command = RTMDET.relative_to(here) if RTMDET.is_relative_to(here) else RTMDET
    say(f"  {command} serve                 then open http://127.0.0.1:8000/docs in a browser")
    say(f"  {command} models pull rtmdet-s  published COCO weights: photographs, 80 classes")
    say(f"  {command} train --help          weights of your own")
    return 0


def demonstrate(url: str, model: str, picture: Path) -> None:
    """Post one picture to one model; keep the answer as JSON and as a picture."""
    answer = json.loads(post(url, model, picture, "application/json"))
    name = f"{picture.stem}.{model}"
    (OUT / f"{name}.json").write_text(json.dumps(answer, indent=2))
    (OUT / f"{name}.jpg").write_bytes(post(url, model, picture, "image/jpeg"))
    show(picture, answer)


def parse_arguments() -> argparse.Namespace:
    """The command line; a mistake in it ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=Path, action="append", help="may stand repeatedly")
    parser.add_argument("--model", action="append", help="a model of the repository; repeatedly")
    options = parser.parse_args()
    options.picture = options.picture or PICTURES
    options.repository = None if options.model else PROJECT / "triton_repo"
    options.model = options.model or MODELS
    if not RTMDET.is_file():
        parser.error(f"there is no {RTMDET}; run `make demo`, which installs it")
    if not options.model:
        parser.error("none of the project's models is in triton_repo; name yours with --model")
    for picture in options.picture:
        if not picture.is_file():
            parser.error(f"there is no {picture}; name another with --picture")
    return options


@contextmanager
def server(models: Sequence[str], repository: Path | None) -> Iterator[str]:
    """The address of a running `rtmdet serve`, ready, for as long as the block lasts.

    Without a repository the models are those of the environment's, or else of the project's.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"RTMDET_MODELS": ",".join(models), "RTMDET_LOG_LEVEL": "warning"}
    # Nobody else has to be told that the server ends.
    settings["RTMDET_DRAIN_DELAY_MS"] = "0"
    if repository is not None:
        settings["RTMDET_MODEL_REPOSITORY"] = str(repository)
    settings = {"RTMDET_MODEL_REPOSITORY": str(PROJECT / "triton_repo")} | os.environ | settings
    command = [RTMDET, "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--default-model", models[0]], env=settings)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when pictures can be sent; fail when the server has ended or takes too long."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended with exit code {process.returncode}")
        try:
            with HTTP.open(f"{url}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"the server was not ready within {READY_WITHIN_S} seconds")


def post(url: str, model: str, picture: Path, accept: str) -> bytes:
    """Send a picture to `POST /detect` and give the answer's body."""
    address = f"{url}/detect?{urllib.parse.urlencode({'model': model})}"
    headers = {"Content-Type": "application/octet-stream", "Accept": accept}
    request = urllib.request.Request(address, picture.read_bytes(), headers)
    try:
        with HTTP.open(request, timeout=ANSWER_WITHIN_S) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"the server refused {picture}: {json.load(error)['detail']}")
    except OSError as error:
        sys.exit(f"the server gave no answer for {picture}: {error}")


def show(picture: Path, answer: dict) -> None:
    """Print the detections as a table."""
    found, total_ms = answer["detections"], answer["timings_ms"]["total"]
    say(f"\n{picture.name} by {answer['model']['name']}: {len(found)} found, {total_ms:.1f} ms")
    for one in found:
        say(f"   {one['score']:.2f}  {one['label']:<12} {place_of(one)}")


def place_of(one: dict) -> str:
    """Where a detection is, in pixels and degrees."""
    if turned := one.get("rotated_box"):
        size = f"{turned['w']:.0f} x {turned['h']:.0f}"
        degrees = math.degrees(turned["angle"])
        return f"{size} around ({turned['cx']:.0f}, {turned['cy']:.0f}), {degrees:.0f} degrees"
    x1, y1, x2, y2 = one["box"]
    place = f"({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})"
    return f"{place}, with its mask" if "mask" in one else place


def say(text: str) -> None:
    """Print at once, in order with what the server prints."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
