"""What files take that cost more than they weigh: memory and processor time, at full size.

    python -m benchmarks.picture_bombs [--side 8000]

Decodes each of `tests.picture_bombs` in a process of its own, with the pictures as large as the
server takes them by default, and prints what the file has, took and was given. The exit status is 1
where one takes more memory than its header claims, by over 16 MiB.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.measured_decoding import measure
from tests.picture_bombs import BOMBS

_MARGIN_BYTES = 16 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8000)
    side = parser.parse_args().side
    print(f"{'MiB':>38} {'seconds':>9} {'peak MiB':>9} {'claimed':>9}  outcome")
    is_over = False
    with tempfile.TemporaryDirectory() as folder:
        for name, make in BOMBS.items():
            file = Path(folder, "bomb")
            file.write_bytes(make(side))
            (taken,) = measure([file], max_pixels=side * side)
            claimed = taken.working_bytes or 0
            is_over |= taken.peak_bytes > claimed + _MARGIN_BYTES
            print(
                f"{name:32} {_mib(file.stat().st_size):5.1f} {taken.seconds:9.2f} "
                f"{_mib(taken.peak_bytes):9.0f} {_mib(claimed):9.0f}  {taken.outcome}",
                flush=True,
            )
    sys.exit(1 if is_over else 0)


def _mib(num_bytes: int) -> float:
    return num_bytes / 2**20


if __name__ == "__main__":
    main()
