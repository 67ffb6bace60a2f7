"""Images per second of `POST /detect` (JPEG in, JSON out) against what the machine could do.

    python -m benchmarks.serving [--models rtmdet-tiny,rtmdet-nano] [--rounds 5] [--seconds 5]

Two bounds, measured in the same run, in turns with the server: the bare engine, given ready arrays
and asked for nothing but outputs; and the cores divided by the core time that decoding, inference
and post-processing of one picture take together (inference by the bare engine). The clients share
the cores with the server; what they take counts against it.

Then one client alone: its median latency beside that of decoding, inferring and post-processing
one picture in this process, and where the time goes.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import openvino as ov

from benchmarks.real_server import (
    Answer,
    closed_loop,
    running_server,
    synthetic_photograph,
    write_model,
)
from model.postprocess import postprocess
from model.preprocess import letterbox
from model.repository import ModelRepository, RepositoryModel
from service.codecs.images import ImageLimits, decode
from service.detection import DetectionResult, DetectOptions, ModelIdentity, Timings
from service.http_api.schemas import detection_json
from service.load_testing.order import run_on_time
from service.model_options import postprocess_settings
from service.runtime.openvino_session import OpenVINOSession
from service.scheduler.requests import InferenceRow
from service.settings import Precision
from service.stages import candidates_of, named

MODELS = (
    "rtmdet-tiny",
    "rtmdet-nano",
    "rtmdet-ins-tiny",
    "rtmdet-ins-nano",
    "rtmdet-r-tiny",
    "rtmdet-r-nano",
)
NUM_CORES = len(os.sched_getaffinity(0))
LIMITS = ImageLimits(10**8, 10**8)
STAGES = ("decode", "queue", "infer", "postprocess")


def main() -> None:
    """Run the turns of every model and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # As in the server, whose threads work on a picture each.
    cv2.setNumThreads(1)
    photograph = synthetic_photograph()
    jpeg = cv2.imencode(".jpg", photograph, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    print(f"JPEG of {len(jpeg) // 1024} KiB, {NUM_CORES} cores, {options.clients} clients")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            repository = Path(folder) / name
            write_model(repository, name, photograph)
            measure(name, repository, jpeg, options)


def measure(name: str, repository: Path, jpeg: bytes, options: argparse.Namespace) -> None:
    """One model: the turns, their medians, and one client alone."""
    model = ModelRepository(repository).open(name)
    print(f"\n{name} at {model.manifest.input_size[1]}x{model.manifest.input_size[0]}")
    print(f"{'engine/s':>10} {'bound/s':>10} {'server/s':>10} {'of engine':>10} {'of bound':>10}")
    precision = engine_precision(model)
    work = Work(model, jpeg, precision)
    turns: list[tuple[float, float, float]] = []
    overheads: list[float] = []
    alone: list[Answer] = []
    with running_server(repository, RTMDET_RUNTIME="openvino", RTMDET_PRECISION=precision) as port:
        for _ in range(options.rounds):
            engine = bare_engine_rate(model, options.seconds)
            bound = work.rate(engine, options.seconds)
            asked = run_on_time(closed_loop(port, jpeg, options.clients, options.seconds))
            server = len(asked) / options.seconds
            turns.append((engine, bound, server))
            print(
                f"{engine:10.1f} {bound:10.1f} {server:10.1f} "
                f"{server / engine:10.3f} {server / bound:10.3f}"
            )
            by_hand_s = work.alone_s(options.seconds / 2)
            alone += (few := run_on_time(closed_loop(port, jpeg, 1, options.seconds / 2)))
            overheads.append(statistics.median(each.seconds for each in few) - by_hand_s)
    of_engine = statistics.median(server / engine for engine, _, server in turns)
    of_bound = statistics.median(server / bound for _, bound, server in turns)
    print(f"medians: {of_engine:.3f} of the engine, {of_bound:.3f} of the bound")
    print(f"core time of a picture: {work.account()}")
    print(f"one client: {1000 * statistics.median(overheads):.2f} ms more than the work itself")
    print(f"  {where_the_time_goes(alone)}")


def where_the_time_goes(answers: list[Answer]) -> str:
    """Medians of the parts of a request, as the client and the server have them."""
    total_ms = statistics.median(1000 * each.seconds for each in answers)
    parts = {
        stage: statistics.median(each.server_timing_ms[stage] for each in answers)
        for stage in STAGES
    }
    parts["HTTP and the rest"] = statistics.median(
        1000 * each.seconds - sum(each.server_timing_ms[stage] for stage in STAGES)
        for each in answers
    )
    listed = ", ".join(f"{name} {ms:.2f}" for name, ms in parts.items())
    return f"of {total_ms:.2f} ms: {listed}"


def _compiled(model: RepositoryModel) -> ov.CompiledModel:
    """As OpenVINO does it by itself, set for throughput."""
    core = ov.Core()
    graph = core.read_model(model.graph_path)
    height, width = model.manifest.input_size
    graph.reshape({graph.input(0): [1, height, width, 3]})
    return core.compile_model(graph, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})


def engine_precision(model: RepositoryModel) -> str:
    """The arithmetic that OpenVINO takes by itself: the same for all that is compared.

    A network of random weights may be one that our server would not compute so.
    """
    return _compiled(model).get_property("INFERENCE_PRECISION_HINT").get_type_name()


def bare_engine_rate(model: RepositoryModel, seconds: float) -> float:
    """Images per second of the engine alone."""
    compiled = _compiled(model)
    height, width = model.manifest.input_size
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    requests = ov.AsyncInferQueue(compiled)

    def run(seconds: float) -> float:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            requests.start_async({0: image}, share_inputs=True)
            count += 1
        requests.wait_all()
        return count / (time.perf_counter() - started)

    run(0.5)
    return run(seconds)


@dataclass
class Work:
    """What must be done for a picture, by the server's own functions, without a server."""

    model: RepositoryModel
    jpeg: bytes
    precision: str

    def __post_init__(self) -> None:
        self._settings = postprocess_settings(self.model, DetectOptions())
        self._session = OpenVINOSession(
            self.model.graph_path,
            input_size=self.model.manifest.input_size,
            precision=cast(Precision, self.precision),
        )
        self._pixels, self._geometry = self._decode()
        self._row = self._infer()
        self._core_ms: dict[str, list[float]] = {}

    def rate(self, engine_rate: float, seconds: float) -> float:
        """Images per second if all cores did nothing but this; `engine_rate` is inference alone."""
        core_s = {
            "decode": _core_s(self._decode, seconds / 2),
            "infer": NUM_CORES / engine_rate,
            "postprocess": _core_s(self._finish, seconds / 2),
        }
        for name, spent_s in core_s.items():
            self._core_ms.setdefault(name, []).append(1000 * spent_s)
        return NUM_CORES / sum(core_s.values())

    def account(self) -> str:
        """What each part took, medians."""
        medians = {name: statistics.median(values) for name, values in self._core_ms.items()}
        return ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items())

    def alone_s(self, seconds: float) -> float:
        """The median time of one picture after the other."""
        times: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            self._pixels, self._geometry = self._decode()
            self._row = self._infer()
            self._finish()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def _decode(self):
        height, width = self.model.manifest.input_size
        return letterbox(decode(self.jpeg, LIMITS).pixels_bgr, width, height)

    def _infer(self) -> InferenceRow:
        outputs = self._session.infer(self._pixels[None])
        row = {name: values[0] for name, values in outputs.items()}
        return InferenceRow(row, batch_size=1, queue_s=0.0, infer_s=0.0, reason="idle")

    def _finish(self) -> bytes:
        detections = postprocess(candidates_of(self._row), self._geometry, self._settings)
        manifest = self.model.manifest
        result = DetectionResult(
            ModelIdentity(self.model.name, str(self.model.version), manifest.task),
            self._geometry.image_width,
            self._geometry.image_height,
            named(detections, manifest),
            Timings(0.0, 0.0, 0.0, 0.0, 0.0),
            batch_size=1,
        )
        return detection_json(result, "req_0", "rle")


def _core_s(work: Callable[[], object], seconds: float) -> float:
    """Core time of a call, one after the other on one thread."""
    end, began_s, calls = time.perf_counter() + seconds, time.thread_time(), 0
    while time.perf_counter() < end:
        work()
        calls += 1
    return (time.thread_time() - began_s) / calls


if __name__ == "__main__":
    main()
