"""Time `service.codecs.images` against bare OpenCV on the same JPEG files, in turns.

    python -m benchmarks.decode

Prints for each size the median milliseconds of header probe, bare `cv2.imdecode` and whole decode
(probe, completeness check, decoding, turning upright), and the ratio of the last two.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import cv2
import numpy as np

from service.codecs.images import ImageLimits, decode, probe

SIZES = ((640, 480), (1920, 1080))
ROUNDS = 60
LIMITS = ImageLimits(max_bytes=1 << 25, max_pixels=1 << 26)


def photograph_like_jpeg(width: int, height: int) -> bytes:
    """Smooth shapes with some grain, which compress like a photograph: about 2 bits per pixel."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 6, smooth.shape)
    pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def milliseconds(function: Callable[[], object]) -> float:
    """The time of one call."""
    start = perf_counter()
    function()
    return (perf_counter() - start) * 1e3


def main() -> None:
    """Measure and print."""
    titles = ("size", "bytes", "probe ms", "OpenCV ms", "decode ms", "ratio")
    print("{:>10} {:>8} {:>9} {:>10} {:>10} {:>6}".format(*titles))
    for width, height in SIZES:
        data = photograph_like_jpeg(width, height)
        calls: dict[str, Callable[[], object]] = {
            "probe": lambda data=data: probe(data, LIMITS),
            "opencv": lambda data=data: cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR
            ),
            "decode": lambda data=data: decode(data, LIMITS),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(milliseconds(call))
        probed, bare, whole = (median(times[name]) for name in calls)
        print(
            f"{width:>5}x{height:<4} {len(data):>8} {probed:>9.3f} {bare:>10.2f} {whole:>10.2f} "
            f"{whole / bare:>6.3f}"
        )


if __name__ == "__main__":
    main()
