"""What decoding takes: a process of its own that decodes files and tells.

    python -m tests.measured_decoding MAX_PIXELS FILE...

prints a line of JSON for each file: `outcome` ("decoded" or the code of the refusal), `seconds` of
processor time, `peak_bytes` beyond what the process had before, and `working_bytes`, the estimate
that the service reserves (null where the header was refused).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.codecs.images import ImageLimits, decode, probe
from service.errors import ServiceError
from tests.conftest import PROJECT


@dataclass(frozen=True)
class Measured:
    """What a file took."""

    outcome: str
    seconds: float
    peak_bytes: int
    working_bytes: int | None


def measure(files: Sequence[Path], *, max_pixels: int) -> list[Measured]:
    """Decode each in another process, where nothing else takes memory.

    Libraries may say a word about a damaged file, not fill the log with it.
    """
    # Freed memory goes back at once: what one file leaves would be room for the next.
    memory = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.measured_decoding", str(max_pixels), *map(str, files)],
        cwd=PROJECT,
        env=os.environ | memory | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    assert len(ended.stderr) < 200 * len(files), "decoding fills the log"
    return [Measured(**json.loads(line)) for line in ended.stdout.splitlines()]


def _measure_here(data: bytes, limits: ImageLimits) -> Measured:
    # Makes the peak start anew (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    began_s = time.process_time()
    working_bytes = None
    try:
        working_bytes = probe(data, limits).working_bytes
        decode(data, limits)
        outcome = "decoded"
    except ServiceError as error:
        outcome = error.code
    seconds = time.process_time() - began_s
    return Measured(outcome, seconds, _memory("VmHWM") - before, working_bytes)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Measure the files of the command line."""
    limits = ImageLimits(1 << 30, int(sys.argv[1]))
    for argument in ("warm-up", *sys.argv[2:]):
        data = bytes(100) if argument == "warm-up" else Path(argument).read_bytes()
        measured = _measure_here(data, limits)
        if argument != "warm-up":
            sys.stdout.write(json.dumps(measured.__dict__) + "\n")


if __name__ == "__main__":
    main()
