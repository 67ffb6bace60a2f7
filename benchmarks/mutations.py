"""Thousands of damaged and hostile bodies to a real server: is each answered, and does it live on?

    python -m benchmarks.mutations --count 20000 [--seed 0] [--only INDEX]

Sends what `tests.mutations` makes of a seed, over several connections. The exit status is 1 where

- a body gets no answer within the request timeout of 10 s, an answer of the kind 5xx but 503 and
  504, or a refusal that is no problem document: its seed and index are printed, `--only` sends it
  again;
- the process ended, or holds more descriptors, threads, requests or places in queues than before;
- memory grows by the rule of `benchmarks.soak`;
- temporary files are left, or the log has errors or more than 500 bytes a request: any client could
  fill a disk with it.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.raw_client import RawAnswer, RawConnection, RawRequest
from benchmarks.soak import SoakReport, error_lines, judge, line_of, memory_of_quarters
from benchmarks.watched_server import WatchedServer, watched_server
from tests.mutations import Mutations
from tests.repositories import write_model

TIMEOUT_S = 10.0
_NUM_CLIENTS = 8
_NUM_SAMPLES = 40
_LOG_BYTES_PER_REQUEST = 500
_PROBLEM = "application/problem+json"


def attack(*, count: int, seed: int, only: int | None = None) -> SoakReport:
    """Send the mutations of a seed to a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        write_model(repository, "boxes", input_size=(96, 128))
        with watched_server(
            repository,
            runtime="fake",
            log_format="text",
            max_image_bytes=1 << 20,
            request_timeout_ms=round(TIMEOUT_S * 1000),
        ) as server:
            report = SoakReport(samples=[server.vitals()])
            indices = range(count) if only is None else [only]
            asyncio.run(_send_all(server, Mutations(seed), indices, report))
            _judge_process(server, report)
        return report


async def _send_all(
    server: WatchedServer, mutations: Mutations, indices: Iterable[int], report: SoakReport
) -> None:
    waiting = iter(indices)

    async def client() -> None:
        connection = RawConnection(server.port)
        for index in waiting:
            await _send(connection, mutations, index, report)
        connection.close()

    async def watch() -> None:
        began_s = time.monotonic()
        num_indices = len(indices) if isinstance(indices, range) else 1
        for number in itertools.count(1):
            while report.num_done < number * num_indices / _NUM_SAMPLES:
                await asyncio.sleep(0.02)
            vitals = await asyncio.to_thread(server.vitals)
            report.samples.append(vitals)
            print(line_of(report.num_done, vitals, time.monotonic() - began_s), flush=True)

    watching = asyncio.create_task(watch())
    try:
        await asyncio.gather(*(client() for _ in range(_NUM_CLIENTS)))
    finally:
        watching.cancel()


async def _send(
    connection: RawConnection, mutations: Mutations, index: int, report: SoakReport
) -> None:
    hostile = mutations.body(index)
    headers = {"Content-Type": hostile.content_type}
    request = RawRequest("POST", hostile.target, hostile.body, headers)
    where = f"seed {mutations.seed}, --only {index}"
    try:
        answer = await connection.ask(request, TIMEOUT_S + 5)
    except (TimeoutError, ConnectionError) as error:
        report.answers["none"] += 1
        report.fault(f"{where}: {error!r}")
        return
    report.answers[str(answer.status)] += 1
    if complaint := _complaint(answer):
        report.fault(f"{where}: {complaint}")


def _complaint(answer: RawAnswer) -> str:
    if answer.status == 200:
        return ""
    if answer.status >= 500 and answer.status not in (503, 504):
        return f"{answer.status} {answer.body[:300]!r}"
    if answer.media_type != _PROBLEM or json.loads(answer.body)["status"] != answer.status:
        return f"{answer.status} {answer.media_type}, which is no problem: {answer.body[:300]!r}"
    return ""


def _judge_process(server: WatchedServer, report: SoakReport) -> None:
    if not server.is_alive:
        report.fault(f"the server ended: {server.log.read_text()[-2000:]}")
        return
    after = server.at_rest(report.samples[0].num_descriptors)
    report.samples.append(after)
    judge(report, after, server)
    log = server.log.read_text()
    if errors := error_lines(log):
        report.fault(f"{len(errors)} errors in the log, the first: {errors[0]}")
    if len(log) > _LOG_BYTES_PER_REQUEST * max(report.num_done, 100):
        report.fault(f"the log has {len(log)} bytes for {report.num_done} requests")


def main() -> None:
    """Read the command line, attack, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    began_s = time.monotonic()
    report = attack(count=options.count, seed=options.seed, only=options.only)
    early, late = memory_of_quarters(report.samples)
    answered = ", ".join(f"{count} x {what}" for what, count in sorted(report.answers.items()))
    print(
        f"seed {options.seed}: {report.num_done} bodies in {time.monotonic() - began_s:.0f} s: "
        f"{answered}; memory {early / 2**20:.0f} MiB in the second quarter, "
        f"{late / 2**20:.0f} MiB in the last"
    )
    for fault in report.faults:
        print(f"FAULT {fault}")
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
