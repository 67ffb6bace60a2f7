"""Answers in time under overload: our server, a plain queue, and LitServe, with the same model.

    python -m benchmarks.goodput [--deadline-ms 250] [--seconds 6] [--rounds 2]

rtmdet-nano at 320x320 with random weights, on OpenVINO in all three; photographs of 640x480 as
multipart forms, Poisson arrivals from an open loop on the same cores. Capacity is what a closed
loop of 16 clients gets, the highest of the three. Then each server is asked for 0.5 to 4 times of
that, in turns; the others are stopped meanwhile (LitServe takes an eighth of a core to do
nothing). Clients give up after two seconds. Our server is told the deadline (`timeout_ms`),
LitServe has it as its own time-out; a plain queue knows of none.

Goodput is answers in time, as a share of what the machine can do, or of what was asked where that
is less. `refused` are 429, 503 and 504 as a share of what was asked; latencies are of answers.
"""

import argparse
import asyncio
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.real_server import free_port, synthetic_photograph, write_model
from service.load_testing.connections import CannotConnect, ConnectionPool
from service.load_testing.exchanges import Answer, Outcome
from service.load_testing.generator import OpenLoop, closed_loop
from service.load_testing.order import allow_connections, run_on_time
from service.load_testing.pictures import photograph
from service.load_testing.request_bytes import RequestShape, build_request, parse_target
from service.load_testing.schedule import arrival_times_s
from service.load_testing.statistics import RunFigures, figures_of

PROJECT = Path(__file__).resolve().parent.parent
FACTORS = (0.5, 1.0, 2.0, 4.0)
NUM_CLIENTS = 16
MAX_CONNECTIONS = 4000
CLIENT_TIMEOUT_S = 2.0
WARM_UP_S = 1.0
READY_S = 60.0
DRAINED_S = 30.0


@dataclass
class Server:
    """One of those that are compared; `options` go with every request that has a deadline."""

    name: str
    command: Sequence[str]
    port: int
    options: Sequence[tuple[str, str]] = ()
    process: "subprocess.Popen[bytes] | None" = None
    runs: dict[float, list[RunFigures]] = field(default_factory=dict)

    def request(self, *, options: Sequence[tuple[str, str]] = ()) -> bytes:
        """A photograph."""
        target = parse_target(f"http://127.0.0.1:{self.port}/detect")
        shape = RequestShape(body="multipart", options=options)
        return build_request(target, shape, photograph(640, 480))


def main() -> None:
    """Run the turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deadline-ms", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    allow_connections(MAX_CONNECTIONS)
    # The servers are ended however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        write_model(Path(folder), "rtmdet-nano", synthetic_photograph())
        servers = rivals(folder, options.deadline_ms)
        for server in servers:
            server.process = start(server)
            running.callback(end, server.process)
        print(
            f"rtmdet-nano at 320x320, {os.cpu_count()} cores, {options.deadline_ms} ms",
            flush=True,
        )
        run_on_time(compare(servers, options))


def rivals(folder: str, deadline_ms: int) -> list[Server]:
    """Those that can be started here."""
    ports = [free_port() for _ in range(3)]
    python = sys.executable, "-m"
    serve = (*python, "rtmdet", "serve", "--repository", folder, "--port", str(ports[0]))
    servers = [
        Server("ours", serve, ports[0], [("timeout_ms", str(deadline_ms))]),
        Server("FIFO", (*python, "benchmarks.rivals.fifo", folder, str(ports[1])), ports[1]),
    ]
    if importlib.util.find_spec("litserve") is None:
        print("LitServe is not installed: pip install '.[rivals]'", file=sys.stderr)
        return servers
    app = (*python, "benchmarks.rivals.litserve_app", folder, str(ports[2]))
    servers.append(Server("LitServe", (*app, str(deadline_ms / 1000)), ports[2]))
    return servers


def start(server: Server) -> "subprocess.Popen[bytes]":
    """In a group of its own, with whatever processes it starts."""
    return subprocess.Popen(
        server.command,
        cwd=PROJECT,
        env=os.environ | {"RTMDET_LOG_LEVEL": "error"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[bytes]") -> None:
    """The process and those that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def alone(server: Server, servers: Sequence[Server]) -> Iterator[None]:
    """The others do not run while the block lasts."""
    others = [each.process.pid for each in servers if each is not server and each.process]
    for pid in others:
        os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.killpg(pid, signal.SIGCONT)


async def compare(servers: Sequence[Server], options: argparse.Namespace) -> None:
    """Capacities, then the turns, then the table."""
    pools = {server.name: await ready(server) for server in servers}
    capacities: dict[str, float] = {}
    for server in servers:
        with alone(server, servers):
            # The first loop warms up.
            for seconds in (1.0, options.seconds):
                found = await capacity(pools[server.name], server.request(), seconds)
                capacities[server.name] = found
        print(f"capacity of {server.name}: {capacities[server.name]:.1f}/s", flush=True)
    capacity_per_s = max(capacities.values())
    for round_ in range(options.rounds):
        for factor in FACTORS:
            for server in servers:
                rate_per_s = factor * capacity_per_s
                with alone(server, servers):
                    run = await turn(pools[server.name], server, rate_per_s, options, round_)
                    await drained(pools[server.name], server, options.deadline_ms / 1000)
                server.runs.setdefault(factor, []).append(run)
    for pool in pools.values():
        await pool.close()
    print_table(servers, capacity_per_s)


async def ready(server: Server) -> ConnectionPool:
    """Connections to the server, once it answers."""
    pool = ConnectionPool(
        "127.0.0.1", server.port, max_connections=MAX_CONNECTIONS, timeout_s=CLIENT_TIMEOUT_S
    )
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        try:
            await pool.find_address()
            answer = await ask(pool, server.request())
        except CannotConnect:
            await asyncio.sleep(0.2)
            continue
        if answer.outcome is Outcome.ANSWERED:
            return pool
        await asyncio.sleep(0.2)
    raise TimeoutError(f"{server.name} does not answer after {READY_S:.0f} s")


async def ask(pool: ConnectionPool, request: bytes) -> Answer:
    """One request alone."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    assert pool.send(request, answered.set_result)
    return await answered


async def capacity(pool: ConnectionPool, request: bytes, seconds: float) -> float:
    """Good answers per second where there is always something to do."""
    began_s = time.perf_counter()
    found = await closed_loop(pool, [request], num_clients=NUM_CLIENTS, seconds=seconds)
    elapsed_s = time.perf_counter() - began_s
    return sum(each.outcome is Outcome.ANSWERED for each in found) / elapsed_s


async def turn(
    pool: ConnectionPool,
    server: Server,
    rate_per_s: float,
    options: argparse.Namespace,
    seed: int,
) -> RunFigures:
    """One server at one rate."""
    times_s = arrival_times_s("poisson", rate_per_s, WARM_UP_S + options.seconds, seed)
    request = server.request(options=server.options)
    exchanges = await OpenLoop(pool, [request], times_s.tolist()).run()
    return figures_of(
        [each for each in exchanges if each.scheduled_s >= WARM_UP_S],
        rate_per_s=rate_per_s,
        seconds=options.seconds,
        deadline_s=options.deadline_ms / 1000,
        # A tenth of what is measured.
        max_lag_s=options.deadline_ms / 10_000,
    )


async def drained(pool: ConnectionPool, server: Server, deadline_s: float) -> None:
    """Wait until the server is done with what its clients have given up, and does not disturb."""
    until_s = time.perf_counter() + DRAINED_S
    while (began_s := time.perf_counter()) < until_s:
        answer = await ask(pool, server.request())
        if answer.outcome is Outcome.ANSWERED and time.perf_counter() - began_s < deadline_s:
            return
        await asyncio.sleep(0.2)
    print(f"{server.name} was still busy {DRAINED_S:.0f} s after its turn", file=sys.stderr)


def print_table(servers: Sequence[Server], capacity_per_s: float) -> None:
    """Medians over the rounds."""
    print(f"\n{'':10} {'rate':>12} {'goodput':>9} {'p50 ms':>8} {'p99 ms':>8} {'refused':>8}")
    for factor in FACTORS:
        for server in servers:
            runs = server.runs[factor]
            rate_per_s = runs[0].rate_per_s
            possible_per_s = [min(capacity_per_s, run.offered_per_s) for run in runs]
            goodputs = [
                run.goodput_per_s / possible
                for run, possible in zip(runs, possible_per_s, strict=True)
            ]
            refused = [
                (run.counts.refused + run.counts.expired) / run.counts.scheduled for run in runs
            ]
            doubt = "" if all(run.is_valid for run in runs) else "  generator late"
            print(
                f"{server.name:10} {factor:4g}x {rate_per_s:5.0f}/s "
                f"{statistics.median(goodputs):9.3f} {milliseconds(runs, 'p50')} "
                f"{milliseconds(runs, 'p99')} {statistics.median(refused):8.3f}{doubt}"
            )


def milliseconds(runs: Sequence[RunFigures], name: str) -> str:
    """The median of a percentile; a dash where nothing was answered."""
    found = [run.latency.percentiles_s[name] for run in runs if run.latency is not None]
    return f"{1000 * statistics.median(found):8.0f}" if found else f"{'-':>8}"


if __name__ == "__main__":
    main()
