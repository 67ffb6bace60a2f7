"""From the start of `rtmdet serve` to ready, beside the least that any such server must do.

    python -m benchmarks.startup

The least: a Python process that imports OpenVINO and compiles the same graphs. In turns.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.real_server import free_port, start_server, synthetic_photograph, write_model

VARIANTS = ("rtmdet-tiny", "rtmdet-ins-tiny", "rtmdet-r-nano")
ROUNDS = 5

_LEAST = """
import sys, openvino
core = openvino.Core()
for path in sys.argv[1:]:
    core.compile_model(path, "CPU")
"""


def main() -> None:
    """Start both in turns and print the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        graphs = [write_model(repository, name, synthetic_photograph()) for name in VARIANTS]
        print(f"{', '.join(VARIANTS)}; seconds")
        print(f"{'compiled':>10} {'ready':>10}")
        turns = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", _LEAST, *map(str, graphs)], check=True)
            compiled = time.perf_counter() - started
            started = time.perf_counter()
            process = start_server(repository, free_port())
            ready = time.perf_counter() - started
            process.terminate()
            process.wait(30)
            turns.append((compiled, ready))
            print(f"{compiled:10.2f} {ready:10.2f}")
    compiled, ready = (statistics.median(column) for column in zip(*turns, strict=True))
    print(f"medians: compiled after {compiled:.2f} s, ready after {ready:.2f} s")


if __name__ == "__main__":
    main()
