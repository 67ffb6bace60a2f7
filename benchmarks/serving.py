"""Images per second of `POST /detect` (JPEG in, JSON out) against the bare OpenVINO engine.

    python benchmarks/serving.py [--variant rtmdet-tiny] [--clients 8] [--seconds 5] [--rounds 5]

The network has the size of the real one and random weights; the score threshold is put where some
hundred candidates pass, as on a busy photograph. Engine and server run in turns on the same
cores, and so do the clients; the table shows each turn, the last line the medians.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
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
RTMDET = Path(sys.executable).with_name("rtmdet")


def main() -> None:
    """Run the turns and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="rtmdet-tiny")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    photograph = synthetic_photograph()
    jpeg = cv2.imencode(".jpg", photograph, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        graph = write_model(repository, options.variant, photograph)
        print(f"{options.variant}, JPEG of {len(jpeg) // 1024} KiB, {os.cpu_count()} cores")
        print(f"{'engine/s':>10} {'server/s':>10} {'ratio':>7}")
        engine = bare_engine(graph)
        port = free_port()
        process = start_server(repository, port)
        try:
            turns = []
            for _ in range(options.rounds):
                bare = engine(options.seconds)
                served = asyncio.run(load(port, jpeg, options.clients, options.seconds))
                turns.append((bare, served))
                print(f"{bare:10.1f} {served:10.1f} {served / bare:7.3f}")
        finally:
            process.terminate()
            process.wait(30)
    ratio = statistics.median(served / bare for bare, served in turns)
    print(f"median ratio {ratio:.3f} with {options.clients} clients")


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


def bare_engine(graph_path: Path):
    """A function that runs the engine alone for some seconds and gives images per second."""
    core = ov.Core()
    model = core.read_model(graph_path)
    _, height, width, _ = (dim.get_max_length() for dim in model.input(0).partial_shape)
    model.reshape({model.input(0): [1, height, width, 3]})
    compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)

    def run(seconds: float) -> float:
        requests = ov.AsyncInferQueue(compiled)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            requests.start_async({0: image}, share_inputs=True)
            count += 1
        requests.wait_all()
        return count / (time.perf_counter() - started)

    run(1.0)
    return run


def start_server(repository: Path, port: int) -> subprocess.Popen[bytes]:
    """The real command, ready."""
    command = [RTMDET, "serve", "--repository", repository, "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"RTMDET_LOG_LEVEL": "error"})
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
        except OSError:
            time.sleep(0.1)
        else:
            return process
    raise TimeoutError("the server was not ready in 30 s")


async def load(port: int, jpeg: bytes, num_clients: int, seconds: float) -> float:
    """Clients that each send the next request when they have the answer; images per second."""
    head = (
        f"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(jpeg)}\r\n\r\n"
    ).encode()
    end = time.perf_counter() + seconds

    async def client() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        count = 0
        while time.perf_counter() < end:
            writer.write(head + jpeg)
            status, length = await read_head(reader)
            body = await reader.readexactly(length)
            if status != 200:
                raise RuntimeError(f"the server answered {status}: {body[:200]!r}")
            count += 1
        writer.close()
        return count

    started = time.perf_counter()
    counts = await asyncio.gather(*(client() for _ in range(num_clients)))
    return sum(counts) / (time.perf_counter() - started)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Status and content length of an answer."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    status = int(lines[0].split()[1])
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    return status, length


def free_port() -> int:
    """A port that nothing listens on now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
