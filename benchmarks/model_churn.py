"""Models unloaded and loaded again, hundreds of times: what does a server keep of those that went?

    python -m benchmarks.model_churn --cycles 200 [--runtime openvino]

Each cycle unloads a model, loads it again and asks it, while other clients go on asking. With
`openvino` the models are those of the repository, which are compiled every time. The exit status is
1 where an answer is wrong, or where memory, descriptors or threads grow by the rules of
`benchmarks.soak`.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.raw_client import RawConnection, RawRequest
from benchmarks.soak import (
    TASKS,
    SoakReport,
    error_lines,
    judge,
    line_of,
    memory_of_quarters,
)
from benchmarks.watched_server import PROJECT, WatchedServer, watched_server
from tests.pictures import encode, gradient_rgb
from tests.repositories import write_model

_TIMEOUT_S = 120.0
_NUM_ASKING = 3
_NUM_SAMPLES = 40


def churn(*, num_cycles: int, runtime: str = "fake", repository: Path | None = None) -> SoakReport:
    """Run the cycles on a server of its own. Without `repository` it has three fake models."""
    with ExitStack() as ending:
        if repository is None:
            repository = Path(ending.enter_context(tempfile.TemporaryDirectory()))
            for name, task in TASKS.items():
                write_model(repository, name, task=task, input_size=(96, 128))
        models = sorted(path.parent.name for path in repository.glob("*/model.json"))
        server = ending.enter_context(
            watched_server(repository, runtime=runtime, log_format="text")
        )
        report = SoakReport(samples=[server.vitals()])
        asyncio.run(_run(server, models, num_cycles, report))
        after = server.at_rest(report.samples[0].num_descriptors)
        report.samples.append(after)
        judge(report, after, server)
        if errors := error_lines(server.log.read_text()):
            report.fault(f"{len(errors)} errors in the log, the first: {errors[0]}")
        return report


async def _run(
    server: WatchedServer, models: Sequence[str], num_cycles: int, report: SoakReport
) -> None:
    asking = [
        asyncio.create_task(_ask_on(server, models, seed, report)) for seed in range(_NUM_ASKING)
    ]
    try:
        await _change(server, models, num_cycles, report)
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _change(
    server: WatchedServer, models: Sequence[str], num_cycles: int, report: SoakReport
) -> None:
    connection = RawConnection(server.port)
    began_s = time.monotonic()
    every = max(1, num_cycles // _NUM_SAMPLES)
    for cycle in range(num_cycles):
        name = models[cycle % len(models)]
        for verb in ("unload", "load"):
            await _ask(connection, RawRequest("POST", f"/models/{name}/{verb}"), name, report)
        await _ask(connection, _detect(name), name, report)
        if (cycle + 1) % every == 0:
            vitals = await asyncio.to_thread(server.vitals)
            report.samples.append(vitals)
            print(line_of(cycle + 1, vitals, time.monotonic() - began_s), flush=True)
    connection.close()


async def _ask_on(
    server: WatchedServer, models: Sequence[str], seed: int, report: SoakReport
) -> None:
    """Ask any of the models, which may be away."""
    chance, connection = random.Random(seed), RawConnection(server.port)
    try:
        while True:
            name = chance.choice(models)
            await _ask(connection, _detect(name), name, report, may_be_away=True)
            await asyncio.sleep(0.01)
    finally:
        connection.close()


async def _ask(
    connection: RawConnection,
    request: RawRequest,
    name: str,
    report: SoakReport,
    *,
    may_be_away: bool = False,
) -> None:
    answer = await connection.ask(request, _TIMEOUT_S)
    body = json.loads(answer.body)
    report.answers[f"{answer.status} {body.get('code', '')}".strip()] += 1
    is_away = answer.status == 503 and body["code"] == "model-not-ready"
    if answer.status != 200 and not (is_away and may_be_away):
        report.fault(f"{request.target}: {answer.status} {answer.body[:300]!r}")
    if answer.status == 200 and "detections" in body and body["model"]["name"] != name:
        report.fault(f"{request.target}: answered by {body['model']['name']}")


def _detect(name: str) -> RawRequest:
    headers = {"Content-Type": "image/png"}
    return RawRequest("POST", f"/detect?model={name}", _PICTURE, headers)


_PICTURE = encode(gradient_rgb(128, 96), "PNG")


def main() -> None:
    """Read the command line, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--runtime", choices=("fake", "openvino"), default="fake")
    options = parser.parse_args()
    began_s = time.monotonic()
    report = churn(
        num_cycles=options.cycles,
        runtime=options.runtime,
        repository=None if options.runtime == "fake" else PROJECT / "triton_repo",
    )
    early, late = memory_of_quarters(report.samples)
    answered = ", ".join(f"{count} x {what}" for what, count in sorted(report.answers.items()))
    print(
        f"{options.cycles} cycles in {time.monotonic() - began_s:.0f} s: {answered}; memory "
        f"{early / 2**20:.0f} MiB in the second quarter, {late / 2**20:.0f} MiB in the last"
    )
    for fault in report.faults:
        print(f"FAULT {fault}")
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
