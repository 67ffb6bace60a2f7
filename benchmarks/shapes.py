"""How many synthetic scenes are written in a second, annotations and JPEG files included.

    python -m benchmarks.shapes [NUM_IMAGES]

Prints, in one process and in one for each core, images per second and processor time per image,
for 640x640 pixels in the layout that has COCO and DOTA annotations; the start of the processes
is part of it.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from training.data.synthetic.data_set import ShapesPlan, write_shapes

NUM_IMAGES = 1000
SIZE = 640


def processor_s() -> float:
    """Processor time of this process and of those that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(num_images: int, jobs: int) -> None:
    """Write a set and print how long it took."""
    plan = ShapesPlan(num_train=num_images, num_val=0, size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        start, start_processor = time.perf_counter(), processor_s()
        write_shapes(Path(folder) / "set", plan, jobs=jobs)
        wall_s = time.perf_counter() - start
        used_s = processor_s() - start_processor
    print(
        f"{num_images} images of {SIZE}x{SIZE}, processes: {jobs}: {num_images / wall_s:.1f} "
        f"images/s, {1000 * used_s / num_images:.1f} ms of processor time each"
    )


def main() -> None:
    """Measure both ways."""
    num_images = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_IMAGES
    for jobs in sorted({1, len(os.sched_getaffinity(0))}):
        measure(num_images, jobs)


if __name__ == "__main__":
    main()
