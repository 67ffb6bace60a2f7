"""What benchmarks of serving share: models of the real sizes, the real command, a light client.

The networks have random weights; the score threshold is put where some hundred candidates pass, as
on a busy photograph.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from model.config import variant
from model.export import export_model
from model.graph import Normalise
from model.manifest import (
    DEFAULT_THRESHOLDS,
    GRAPH_FILE,
    CheckpointManifest,
    Source,
)
from model.rtmdet import build_rtmdet

NUM_PASSING = 100
PROJECT = Path(__file__).resolve().parent.parent


def synthetic_photograph() -> np.ndarray:
    """640x480 with the detail, and so the decoding time, of an ordinary photograph."""
    rng = np.random.default_rng(0)
    layers = [
        cv2.resize(rng.normal(0, 25, (h, w, 3)), (640, 480), interpolation=cv2.INTER_CUBIC)
        for h, w in ((6, 8), (24, 32), (120, 160), (480, 640))
    ]
    layers[-1] /= 4
    return np.clip(sum(layers) + 128, 0, 255).astype(np.uint8)


def write_model(repository: Path, name: str, photograph: np.ndarray) -> Path:
    """Export the variant with random weights that give scores of all heights."""
    config = variant(name)
    torch.manual_seed(0)
    network = build_rtmdet(config)
    height, width = config.input_size
    picture = cv2.resize(photograph, (width, height))
    images = Normalise()(torch.from_numpy(np.stack([picture, picture[:, ::-1].copy()])))
    with torch.no_grad():
        for key, parameter in network.head.named_parameters():
            if "predictors" in key and parameter.ndim == 4:
                parameter.normal_(std=0.1)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()(images)
        outputs = network.eval()(images[:1])
    scores = torch.cat([level.flatten() for level in outputs.logits]).sigmoid()
    threshold = float(scores.topk(NUM_PASSING).values[-1])
    manifest = CheckpointManifest(
        variant=name,
        task=config.task,
        classes=tuple(f"class {index}" for index in range(config.num_classes)),
        input_size=config.input_size,
        weights_sha256="0" * 64,
        source=Source(kind="initialised", seed=0),
    )
    thresholds = DEFAULT_THRESHOLDS[config.task].model_copy(update={"score": threshold})
    version = export_model(network, manifest, repository, name=name, thresholds=thresholds)
    return version / GRAPH_FILE


def start_server(repository: Path, port: int, **settings: str) -> subprocess.Popen[bytes]:
    """The real command, ready; `settings` are environment variables."""
    command = [sys.executable, "-m", "rtmdet", "serve"]
    command += ["--repository", str(repository.resolve()), "--port", str(port)]
    environment = os.environ | {
        "RTMDET_LOG_LEVEL": "error",
        "RTMDET_DRAIN_DELAY_MS": "0",
        **settings,
    }
    process = subprocess.Popen(command, env=environment, cwd=PROJECT)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2)
        except OSError:
            time.sleep(0.1)
        else:
            return process
    process.kill()
    raise TimeoutError("the server was not ready in a minute")


@contextmanager
def running_server(repository: Path, **settings: str) -> Iterator[int]:
    """The port of a server for as long as the block lasts."""
    port = free_port()
    process = start_server(repository, port, **settings)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@dataclass(frozen=True)
class Answer:
    """One answer: its status, how long it took, and the server's own account of the time."""

    status: int
    seconds: float
    server_timing_ms: dict[str, float]


async def closed_loop(port: int, jpeg: bytes, num_clients: int, seconds: float) -> list[Answer]:
    """Clients that each send the next request when they have the answer, until so many seconds are
    over; what is answered later does not count.

    Raises RuntimeError where the server gives anything but answers.
    """
    head = (
        f"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(jpeg)}\r\n\r\n"
    ).encode()
    end = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        while (began := time.perf_counter()) < end:
            writer.write(head + jpeg)
            status, length, timing = await _read_head(reader)
            body = await reader.readexactly(length)
            if status != 200:
                raise RuntimeError(f"the server answered {status}: {body[:200]!r}")
            if time.perf_counter() > end:
                break
            answers.append(Answer(status, time.perf_counter() - began, timing))
        writer.close()

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return answers


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, int, dict[str, float]]:
    """Status, content length and timings of an answer."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().decode("latin-1").split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    parts = (part.split(";dur=") for part in fields.get("server-timing", "").split(", "))
    timing = {part[0]: float(part[1]) for part in parts if len(part) == 2}
    return int(lines[0].split()[1]), int(fields["content-length"]), timing
