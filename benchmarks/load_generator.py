"""Processor time that the load generator takes for a request, beside httpx, and its own lag.

    python -m benchmarks.load_generator [--rate 200] [--seconds 5]

The server is a process of its own that answers at once; a request is a photograph of 640x480. All
send at the same times. The lag is the median of how long after its time a request left.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import httpx
import uvloop

from service.load_testing.connections import ConnectionPool
from service.load_testing.generator import OpenLoop
from service.load_testing.pictures import photograph
from service.load_testing.request_bytes import RequestShape, build_request, parse_target
from service.load_testing.schedule import arrival_times_s

SERVER = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            lines = head.lower().split(b"\\r\\n")
            length = next(int(x[15:]) for x in lines if x.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 400\\r\\n\\r\\n" + b" " * 400)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def main() -> None:
    """Measure each client on the same server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    times_s = arrival_times_s("poisson", options.rate, options.seconds, seed=0).tolist()
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        print(f"{len(times_s)} requests at {options.rate:g}/s; processor time for each, lag, in ms")
        measure("ours, uvloop", uvloop.new_event_loop, lambda: ours(port, times_s), len(times_s))
        measure("ours, asyncio", asyncio.new_event_loop, lambda: ours(port, times_s), len(times_s))
        measure("httpx, uvloop", uvloop.new_event_loop, lambda: others(port, times_s), len(times_s))
    finally:
        server.kill()
        server.wait()


def measure(
    name: str,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    work: Callable[[], Awaitable[float]],
    number: int,
) -> None:
    """Print what one way costs."""

    async def run() -> tuple[float, float]:
        began_s = time.process_time()
        lag_s = await work()
        return time.process_time() - began_s, lag_s

    with asyncio.Runner(loop_factory=new_loop) as runner:
        taken_s, lag_s = runner.run(run())
        print(f"{name:14} {1000 * taken_s / number:7.3f} {1000 * lag_s:7.3f}")


async def ours(port: int, times_s: list[float]) -> float:
    """As `rtmdet bench` does it."""
    target = parse_target(f"http://127.0.0.1:{port}/detect")
    request = build_request(target, RequestShape(), photograph(640, 480))
    pool = ConnectionPool("127.0.0.1", port)
    await pool.find_address()
    exchanges = await OpenLoop(pool, [request], times_s).run()
    await pool.close()
    return statistics.median(each.lag_s for each in exchanges)


async def others(port: int, times_s: list[float]) -> float:
    """A task for each request, with httpx."""
    lags_s: list[float] = []
    content = photograph(640, 480).content
    url = f"http://127.0.0.1:{port}/detect"
    async with httpx.AsyncClient() as client, asyncio.TaskGroup() as tasks:
        began_s = time.perf_counter()
        for at_s in times_s:
            while (left_s := began_s + at_s - time.perf_counter()) > 0:
                await asyncio.sleep(left_s)
            lags_s.append(time.perf_counter() - began_s - at_s)
            tasks.create_task(client.post(url, content=content))
    return statistics.median(lags_s)


if __name__ == "__main__":
    main()
