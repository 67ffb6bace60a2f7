"""How long `rtmdet data check` takes on many images, with and without decoding them.

    python -m benchmarks.data_check --images 10000

Makes a set of small images in COCO's and in DOTA's layout, and prints seconds and images a second.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from training.data.checking.check import Request, check_data
from training.data.checking.images import Reading

SIDE = 64
INSTANCES = 7
NAMES = ("star", "cross", "ring", "box")


def main() -> None:
    """Make the sets, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for write in (write_coco, write_dota):
            place = Path(folder) / write.__name__
            write(place, options.images)
            measure(place, options.images, options.jobs)


def measure(folder: Path, num_images: int, jobs: int) -> None:
    """Check twice; the difference of both is what reading and decoding all pixels takes."""
    print(f"{folder.name.removeprefix('write_')}: {num_images:,} images")
    for decodes in (False, True):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        outcome = check_data(Request(folder), Reading(jobs, decodes), lambda *_: None)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
        name = "decoding" if decodes else "apart from decoding"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"  {name:<20} {seconds:6.1f} s ({cpu:.1f} s of CPU), {num_images / seconds:,.0f} "
            f"images/s, {len(outcome.findings)} kinds found, at most {peak:.0f} MiB"
        )


def picture(number: int) -> np.ndarray:
    """A picture that no other resembles."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def corners(number: int) -> np.ndarray:
    """Rectangles [n, 4, 2] at all angles, which go round clockwise."""
    random = np.random.default_rng((number, 1))
    made = []
    for _ in range(INSTANCES):
        centre, sides = random.uniform(20, 44, 2), random.uniform(8, 20, 2)
        turned = cv2.boxPoints((tuple(centre), tuple(sides), random.uniform(0, 90)))
        made.append(turned)
    return np.array(made)


def write_coco(folder: Path, num_images: int) -> None:
    """Boxes and polygons in one JSON."""
    images, annotations = [], []
    (folder / "train").mkdir(parents=True)
    for number in range(num_images):
        name = f"{number:06d}.jpg"
        cv2.imwrite(str(folder / "train" / name), picture(number))
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for label, points in enumerate(corners(number).tolist()):
            (left, top), (right, bottom) = np.min(points, axis=0), np.max(points, axis=0)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": label % len(NAMES),
                    "bbox": [float(v) for v in (left, top, right - left, bottom - top)],
                    "area": float((right - left) * (bottom - top)),
                    "segmentation": [np.ravel(points).tolist()],
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))


def write_dota(folder: Path, num_images: int) -> None:
    """A text file for each image."""
    for name in ("images", "labelTxt"):
        (folder / "train" / name).mkdir(parents=True)
    for number in range(num_images):
        cv2.imwrite(str(folder / "train/images" / f"{number:06d}.jpg"), picture(number))
        lines = [
            " ".join(f"{value:.2f}" for value in np.ravel(points)) + f" {NAMES[label % 4]} 0\n"
            for label, points in enumerate(corners(number))
        ]
        (folder / "train/labelTxt" / f"{number:06d}.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
