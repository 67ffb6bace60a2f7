"""Boxes, masks and rotated boxes over HTTP: start the server, post pictures, show the answers.

    python examples/demo.py
    python examples/demo.py --picture street.jpg --model rtmdet-tiny-coco

Prints what was found and where the answers and the drawn pictures lie. The client half uses the
standard library alone: it is what any program would do.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RTMDET = Path(sys.executable).with_name("rtmdet")
OUT = Path("out/demo")

#: The project's own models, one for each task.
_OWN = ("rtmdet-nano-shapes", "rtmdet-ins-nano-shapes", "rtmdet-r-nano-shapes")
MODELS = tuple(name for name in _OWN if (PROJECT / "triton_repo" / name).is_dir())
PICTURES = sorted((PROJECT / "examples/pictures").glob("*.jpg"))

#: How long the server may take to be ready.
READY_WITHIN_S = 60


def main() -> int:
    """Run the demonstration; the exit code says whether it worked."""
    options = parse_arguments()
    pictures, models = options.picture or PICTURES, options.model or MODELS
    for picture in pictures:
        if not picture.is_file():
            say(f"there is no {picture}; name another with --picture")
            return 2
    say(f"Starting the server with {', '.join(models)}")
    with server(models) as url:
        for model in models:
            for picture in pictures:
                demonstrate(url, model, picture)
    say(f"\nAnswers (.json) and drawn pictures (.jpg) lie in {OUT}/")
    say("\nWhat to try next:")
    command = os.path.relpath(RTMDET)
    say(f"  {command} serve                 then open http://127.0.0.1:8000/docs in a browser")
    say(f"  {command} models pull rtmdet-s  published COCO weights: photographs, 80 classes")
    say(f"  {command} train --help          weights of your own")
    return 0


def demonstrate(url: str, model: str, picture: Path) -> None:
    """Post one picture to one model; keep the answer as JSON and as a picture."""
    answer = json.loads(post(url, model, picture, "application/json"))
    OUT.mkdir(parents=True, exist_ok=True)
    stem = OUT / f"{picture.stem}.{model}"
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(answer, indent=2))
    stem.with_name(f"{stem.name}.jpg").write_bytes(post(url, model, picture, "image/jpeg"))
    show(picture, answer)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=Path, action="append", help="may stand repeatedly")
    parser.add_argument("--model", action="append", help="a model of the repository; repeatedly")
    return parser.parse_args()


@contextmanager
def server(models: tuple[str, ...]) -> Iterator[str]:
    """A running `rtmdet serve`, ready, for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"RTMDET_MODELS": ",".join(models), "RTMDET_LOG_LEVEL": "warning"}
    settings = {"RTMDET_MODEL_REPOSITORY": str(PROJECT / "triton_repo")} | os.environ | settings
    process = subprocess.Popen([RTMDET, "serve", "--port", str(port)], env=settings)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when pictures can be sent; fail when the server has ended or takes too long."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended with exit code {process.returncode}")
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=1)
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"the server was not ready within {READY_WITHIN_S} seconds")


def post(url: str, model: str, picture: Path, accept: str) -> bytes:
    """Send a picture to `POST /detect` and give the answer's body."""
    address = f"{url}/detect?{urllib.parse.urlencode({'model': model})}"
    headers = {"Content-Type": "application/octet-stream", "Accept": accept}
    request = urllib.request.Request(address, picture.read_bytes(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"the server refused {picture}: {json.load(error)['detail']}")


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
        degrees = turned["angle"] * 180 / 3.14159265
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
