"""The whole way of a picture: import a checkpoint, serve it, post the picture, show the answer.

    python examples/demo.py --checkpoint weights.pth --model rtmdet-tiny --classes coco \
        --picture street.jpg

Prints the detections and where the picture with the detections drawn lies. The client half uses
the standard library alone: it is what any program would do.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RTMDET = Path(sys.executable).with_name("rtmdet")
OUT = Path("out/demo")


def main() -> int:
    """Run the demonstration; the exit code says whether it worked."""
    options = parse_arguments()
    for path in (options.checkpoint, options.picture):
        if not path.is_file():
            say(f"there is no {path}; name another with --checkpoint or --picture")
            return 2
    model = imported(options.checkpoint, options.model, options.classes)
    say("2. Starting the server")
    with server(model) as url:
        say(f"3. Posting {options.picture} to {url}/detect")
        answer = json.loads(post(url, options.picture, "application/json"))
        show(answer)
        OUT.mkdir(parents=True, exist_ok=True)
        drawn = OUT / f"{options.picture.stem}.detected.jpg"
        drawn.write_bytes(post(url, options.picture, "image/jpeg"))
        document = OUT / f"{options.picture.stem}.json"
        document.write_text(json.dumps(answer, indent=2))
    say(f"\nThe picture with the detections drawn: {drawn}")
    say(f"The answer as JSON:                    {document}")
    say("\nNext: serve it yourself and open http://127.0.0.1:8000/docs in a browser:")
    say(f"  {os.path.relpath(RTMDET)} serve")
    return 0


def imported(checkpoint: Path, variant: str, classes: str) -> str:
    """The name of the model that was made of the checkpoint; imports it the first time."""
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    # The same file read as another variant or with other classes is another model.
    asked = hashlib.sha256(f"{digest} {variant} {classes}".encode()).hexdigest()
    name = f"{variant}-demo-{asked[:8]}"
    listed = json.loads(run("models", "list", "--json"))["models"]
    if any(model["name"] == name and "problem" not in model for model in listed):
        say(f"1. The model is in the repository already: {name}")
    else:
        say(f"1. Importing {checkpoint} as {name} (takes some seconds)")
        run(
            "models", "import", checkpoint, "--name", name, "--model", variant, "--classes", classes
        )
    return name


def run(*arguments: str | Path) -> str:
    """What `rtmdet` prints; its own message and exit code where it fails."""
    done = subprocess.run([RTMDET, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--picture", type=Path, required=True)
    return parser.parse_args()


@contextmanager
def server(model: str) -> Iterator[str]:
    """A running `rtmdet serve`, ready, for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"RTMDET_MODELS": model, "RTMDET_LOG_LEVEL": "warning"}
    process = subprocess.Popen([RTMDET, "serve", "--port", str(port)], env=os.environ | settings)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when pictures can be sent; fail when the server has ended or 60 s are over."""
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"the server ended with exit code {process.returncode}")
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=1)
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit("the server was not ready within 60 seconds")


def post(url: str, picture: Path, accept: str) -> bytes:
    """Send a picture to `POST /detect` and give the answer's body."""
    headers = {"Content-Type": "application/octet-stream", "Accept": accept}
    request = urllib.request.Request(f"{url}/detect", picture.read_bytes(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"the server refused the picture: {json.load(error)['detail']}")


def show(answer: dict) -> None:
    """Print the detections as a table."""
    timings = answer["timings_ms"]
    count = len(answer["detections"])
    say(f"\n   {count} {'detection' if count == 1 else 'detections'}, {timings['total']:.1f} ms\n")
    for found in answer["detections"]:
        x1, y1, x2, y2 = found["box"]
        place = f"({x1:6.1f}, {y1:6.1f}) - ({x2:6.1f}, {y2:6.1f})"
        say(f"   {found['score']:.2f}  {found['label']:<16} {place}")


def say(text: str) -> None:
    """Print at once, in order with what the commands print."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
