"""Tens of thousands of mixed requests, thousands of them given up: what does a server keep of them?

    python -m benchmarks.soak --requests 50000 --cancels 10000 [--runtime openvino] [--seed 0]

Starts the real command, with the fake runtime or with the models of the repository, and sends what
`benchmarks.soak_requests` draws. Requests that are given up end at a random moment: within the
body, while they wait, while they are answered. Prints memory, descriptors, threads and requests
under way as it goes. The exit status is 1 where

- an answer has a status or a type that its request should not get, or does not come in time,
- requests or places in a queue are left when nobody asks any more,
- descriptors are more than before, or threads more than halfway,
- memory grows: the median of the last quarter is more than that of the second quarter by over 5 %
  and 16 MiB. The first quarter is left out: allocators and caches fill then;
- the server left a temporary file, wrote an error into its log, or ended with anything but 0.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.raw_client import RawAnswer, RawConnection
from benchmarks.soak_requests import SoakRequest, SoakRequests
from benchmarks.watched_server import PROJECT, Vitals, WatchedServer, watched_server
from tests.repositories import write_model

TASKS = {"boxes": "detect", "masks": "instance", "turned": "rotated"}

#: Longer than any request may take; a server that does not answer by then has hung.
_ANSWER_WITHIN_S = 60.0
_NUM_SAMPLES = 40
_BAD_LEVELS = ("WARNING", "ERROR", "CRITICAL")


@dataclass
class SoakReport:
    """What happened; `faults` is empty where all is well."""

    #: By status, and the code of the problem where it is one.
    answers: Counter[str] = field(default_factory=Counter[str])
    num_cancelled: int = 0
    samples: list[Vitals] = field(default_factory=list[Vitals])
    faults: list[str] = field(default_factory=list[str])

    @property
    def num_done(self) -> int:
        """Requests that were answered or given up."""
        return self.answers.total() + self.num_cancelled

    def fault(self, text: str) -> None:
        """Note what should not be; a few of them say enough."""
        if len(self.faults) < 20:
            self.faults.append(text)


class Soak:
    """Sends `num_requests`, of which `num_cancels` are given up, over `num_clients` connections."""

    def __init__(
        self,
        server: WatchedServer,
        models: Sequence[str],
        *,
        num_requests: int,
        num_cancels: int,
        num_clients: int,
        seed: int,
    ) -> None:
        self._server = server
        self._chance = random.Random(seed)
        self._requests = SoakRequests(models, self._chance)
        self._num_requests = num_requests
        self._cancelled = set(self._chance.sample(range(num_requests), num_cancels))
        self._num_clients = num_clients
        self._next = 0
        self.report = SoakReport()

    async def run(self) -> None:
        """Send everything, and look at the server before and now and then."""
        self.report.samples.append(await asyncio.to_thread(self._server.vitals))
        clients = [asyncio.create_task(self._client()) for _ in range(self._num_clients)]
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(*clients)
        finally:
            watching.cancel()

    async def _client(self) -> None:
        connection = RawConnection(self._server.port)
        try:
            while self._next < self._num_requests:
                index = self._next
                self._next += 1
                drawn = self._requests.draw()
                if index in self._cancelled:
                    await self._give_up(connection, drawn)
                else:
                    await self._ask(connection, drawn)
        finally:
            connection.close()

    async def _ask(self, connection: RawConnection, drawn: SoakRequest) -> None:
        what = f"{drawn.request.method} {drawn.request.target}"
        try:
            answer = await connection.ask(drawn.request, _ANSWER_WITHIN_S)
        except (TimeoutError, ConnectionError) as error:
            self.report.answers["none"] += 1
            self.report.fault(f"{what}: {error!r}")
            return
        self.report.answers[f"{answer.status} {_code(answer)}".strip()] += 1
        if answer.status not in drawn.expected:
            self.report.fault(f"{what}: {answer.status} {answer.body[:300]!r}")
        refused = "application/problem+json"
        if answer.status == 200 and drawn.media_type not in (answer.media_type, refused):
            self.report.fault(f"{what}: {answer.media_type} instead of {drawn.media_type}")

    async def _give_up(self, connection: RawConnection, drawn: SoakRequest) -> None:
        length = len(drawn.request.encoded())
        sent = self._chance.choice((length, length, self._chance.randint(1, length)))
        await connection.abandon(drawn.request, sent, self._chance.choice((0, 0.002, 0.02)))
        self.report.num_cancelled += 1

    async def _watch(self) -> None:
        began_s = time.monotonic()
        due = 0
        while True:
            if self.report.num_done >= due:
                vitals = await asyncio.to_thread(self._server.vitals)
                self.report.samples.append(vitals)
                print(line_of(self.report.num_done, vitals, time.monotonic() - began_s), flush=True)
                due += max(1, self._num_requests // _NUM_SAMPLES)
            await asyncio.sleep(0.02)


def judge(report: SoakReport, after: Vitals, server: WatchedServer) -> None:
    """Add what is wrong at the end to the report's faults."""
    before, halfway = report.samples[0], report.samples[len(report.samples) // 2]
    if after.in_flight or after.waiting:
        report.fault(f"left behind: {after.in_flight} requests, {after.waiting} in queues")
    if after.num_descriptors > before.num_descriptors:
        report.fault(f"{after.num_descriptors} descriptors, {before.num_descriptors} before")
    if after.num_threads > halfway.num_threads:
        report.fault(f"{after.num_threads} threads, {halfway.num_threads} halfway")
    early, late = memory_of_quarters(report.samples)
    if late - early > max(0.05 * early, 16 << 20):
        report.fault(f"memory grew from {early / 2**20:.0f} to {late / 2**20:.0f} MiB")
    if left := server.left_files():
        report.fault(f"temporary files: {left}")


def memory_of_quarters(samples: Sequence[Vitals]) -> tuple[float, float]:
    """Medians of the memory in the second and in the last quarter, in bytes."""
    quarter = max(1, len(samples) // 4)
    memory = [sample.rss_bytes for sample in samples]
    second = memory[quarter : 2 * quarter] or memory
    return statistics.median(second), statistics.median(memory[-quarter:])


def soak(
    *,
    num_requests: int,
    num_cancels: int,
    num_clients: int = 16,
    seed: int = 0,
    runtime: str = "fake",
    repository: Path | None = None,
) -> SoakReport:
    """Run against a server of its own. Without `repository` it has three models of the fake one."""
    with ExitStack() as ending:
        if repository is None:
            repository = Path(ending.enter_context(tempfile.TemporaryDirectory()))
            for name, task in TASKS.items():
                write_model(repository, name, task=task, input_size=(96, 128))
        models = sorted(path.parent.name for path in repository.glob("*/model.json"))
        fake = "call_ms=1,detections=5" if runtime == "fake" else ""
        with watched_server(repository, runtime=runtime, fake=fake, log_format="text") as server:
            running = Soak(
                server,
                models,
                num_requests=num_requests,
                num_cancels=num_cancels,
                num_clients=num_clients,
                seed=seed,
            )
            asyncio.run(running.run())
            report = running.report
            after = server.at_rest(report.samples[0].num_descriptors)
            report.samples.append(after)
            print(line_of(report.num_done, after, 0.0))
            judge(report, after, server)
            server.process.terminate()
            if status := server.process.wait(_ANSWER_WITHIN_S):
                report.fault(f"the server ended with status {status}")
            if errors := error_lines(server.log.read_text()):
                report.fault(f"{len(errors)} errors in the log, the first: {errors[0]}")
        return report


def _code(answer: RawAnswer) -> str:
    is_problem = answer.media_type == "application/problem+json"
    return json.loads(answer.body)["code"] if is_problem else ""


def error_lines(log: str) -> list[str]:
    """Lines of warnings, errors and exceptions that nobody caught."""
    return [
        line
        for line in log.splitlines()
        if line.startswith("Traceback") or any(f" {level} " in line for level in _BAD_LEVELS)
    ]


def line_of(num_done: int, vitals: Vitals, seconds: float) -> str:
    """What the server holds, as a line of the table."""
    return (
        f"{num_done:8} requests {seconds:7.1f} s {vitals.rss_bytes / 2**20:8.1f} MiB "
        f"{vitals.num_descriptors:5} descriptors {vitals.num_threads:4} threads "
        f"{vitals.in_flight:4} under way {vitals.waiting:4} waiting"
    )


def main() -> None:
    """Read the command line, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--cancels", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runtime", choices=("fake", "openvino"), default="fake")
    options = parser.parse_args()
    began_s = time.monotonic()
    report = soak(
        num_requests=options.requests,
        num_cancels=options.cancels,
        num_clients=options.clients,
        seed=options.seed,
        runtime=options.runtime,
        repository=None if options.runtime == "fake" else PROJECT / "triton_repo",
    )
    early, late = memory_of_quarters(report.samples)
    answered = ", ".join(f"{count} x {what}" for what, count in sorted(report.answers.items()))
    print(
        f"seed {options.seed}: {report.num_done} requests in {time.monotonic() - began_s:.0f} s: "
        f"{answered}, {report.num_cancelled} given up; memory {early / 2**20:.0f} MiB in the "
        f"second quarter, {late / 2**20:.0f} MiB in the last"
    )
    for fault in report.faults:
        print(f"FAULT {fault}")
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
