"""Time one training sample, made in several ways from the same JPEG files, in turns, one thread.

    python -m benchmarks.mixing [--rounds N]

Prints for boxes and for masks the mean CPU milliseconds per sample, and the ratio to a plain one
(one image: decode, resize, crop, colours, flip) of: cached mixing, mixing without anything
remembered, and the published arithmetic with copied caches (canvas of twice the input, full
resizes, colours in int16, blend in float32); then what the renderer holds against its budget.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import thread_time
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_masks

from training.config import TrainConfig
from training.data.annotations import Annotations, Outline
from training.data.sampling.batches import batch_of
from training.data.sampling.rendering import Renderer
from training.data.sampling.sampler import Sampler
from training.recipes import recipe

SIZE = (480, 640)
#: Positions, far more than are remembered; several share a file, but each is read on its own.
NUM_IMAGES = 4000
NUM_FILES = 100
#: Instances per image and corners per outline of COCO, on average.
INSTANCES = 7
CORNERS = 24
SIDE = 640
WARM_UP = 150
MIB = 2**20


class PhotographLike:
    """Noise at several octaves as JPEG files of about 150 KB, with outlines strewn over them."""

    classes = ("thing",)
    are_upright = False

    def __init__(self, folder: Path, *, with_outlines: bool) -> None:
        self._folder = folder
        self._found = [_annotations(index, with_outlines) for index in range(NUM_IMAGES)]
        for index in range(NUM_FILES):
            if not self.image_path(index).exists():
                cv2.imwrite(str(self.image_path(index)), _photograph(index), [1, 88])

    def __len__(self) -> int:
        return NUM_IMAGES

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        return self._folder / f"{position % NUM_FILES:04}.jpg"

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width."""
        return SIZE

    def annotations(self, position: int) -> Annotations:
        """Its instances."""
        return self._found[position]


def _photograph(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.full((*SIZE, 3), 110.0)
    for octave in (4, 10, 28, 64, 200):
        grid = rng.normal(0, 14, (SIZE[0] // octave + 2, SIZE[1] // octave + 2, 3))
        image += cv2.resize(grid, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(image + rng.normal(0, 16, image.shape), 0, 255).astype(np.uint8)


def _annotations(seed: int, with_outlines: bool) -> Annotations:
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    outlines = []
    for _ in range(INSTANCES):
        # Sides spread over the sizes of COCO: a third small, a third large.
        radii = np.exp(rng.uniform(np.log(8), np.log(160), 2))
        shape = circle * radii * rng.uniform(0.7, 1, (CORNERS, 1))
        outlines.append(np.clip(shape + rng.uniform(0, 1, 2) * SIZE[::-1], 0, SIZE[::-1]))
    boxes = [np.concatenate([each.min(0), each.max(0)]) for each in outlines]
    return Annotations(
        np.array(boxes, np.float32),
        np.zeros(INSTANCES, np.int64),
        tuple(Outline(polygons=(each.astype(np.float32),)) for each in outlines)
        if with_outlines
        else None,
    )


class PublishedArithmetic:
    """Cached mosaic and mix-up as published: deep copies, the full canvas, float blends."""

    def __init__(self, data: PhotographLike) -> None:
        self._data = data
        self._rng = np.random.default_rng(0)
        self._images: list[dict[str, Any]] = []
        self._samples: list[dict[str, Any]] = []

    def sample(self, position: int) -> dict[str, Any]:
        """One sample, up to its targets."""
        annotations = self._data.annotations(position)
        loaded = {
            "image": cv2.imread(str(self._data.image_path(position))),
            "boxes": annotations.boxes.copy(),
            "polygons": [each.polygons[0] for each in annotations.outlines or ()],
        }
        mosaic = self._mosaic(loaded)
        jittered = self._colours(self._window(mosaic))
        mixed = self._mixup(self._flip(jittered))
        mixed["masks"] = self._masks(mixed)
        return mixed

    def _remember(self, cache: list[dict[str, Any]], entry: dict[str, Any], length: int) -> None:
        cache.append(copy.deepcopy(entry))
        if len(cache) > length:
            cache.pop(self._rng.integers(len(cache)))

    def _mosaic(self, loaded: dict[str, Any]) -> dict[str, Any]:
        self._remember(self._images, loaded, 40)
        chosen = [
            copy.deepcopy(self._images[self._rng.integers(len(self._images))]) for _ in range(3)
        ]
        canvas = np.full((2 * SIDE, 2 * SIDE, 3), 114, np.uint8)
        cx, cy = (int(self._rng.uniform(0.5, 1.5) * SIDE) for _ in range(2))
        boxes, polygons = [], []
        for index, each in enumerate((loaded, *chosen)):
            height, width = each["image"].shape[:2]
            scale = min(SIDE / height, SIDE / width)
            tile = cv2.resize(each["image"], (int(width * scale), int(height * scale)))
            x = cx if index % 2 else cx - tile.shape[1]
            y = cy if index >= 2 else cy - tile.shape[0]
            x1, y1 = max(x, 0), max(y, 0)
            x2, y2 = min(x + tile.shape[1], 2 * SIDE), min(y + tile.shape[0], 2 * SIDE)
            canvas[y1:y2, x1:x2] = tile[y1 - y : y2 - y, x1 - x : x2 - x]
            boxes.append(np.clip(each["boxes"] * scale + [x, y, x, y], 0, 2 * SIDE))
            polygons += [each * scale + [x, y] for each in each["polygons"]]
        return {"image": canvas, "boxes": np.concatenate(boxes), "polygons": polygons}

    def _window(self, mosaic: dict[str, Any]) -> dict[str, Any]:
        scale = self._rng.uniform(0.5, 2.0)
        side = int(2 * SIDE * scale + 0.5)
        image = cv2.resize(mosaic["image"], (side, side))
        x, y = self._rng.integers(0, max(side - SIDE, 0) + 1, 2)
        boxes = np.clip(mosaic["boxes"] * scale - [x, y, x, y], 0, SIDE)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        polygons = [each * scale - [x, y] for each in mosaic["polygons"]]
        return {
            "image": image[y : y + SIDE, x : x + SIDE],
            "boxes": boxes[kept],
            "polygons": list(compress(polygons, kept)),
        }

    def _colours(self, sample: dict[str, Any]) -> dict[str, Any]:
        gains = self._rng.uniform(-1, 1, 3) * (5, 30, 30) * self._rng.integers(0, 2, 3)
        hsv = cv2.cvtColor(sample["image"], cv2.COLOR_BGR2HSV).astype(np.int16)
        hue, saturation, value = gains.astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + hue) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] + saturation, 0, 255)
        hsv[..., 2] = np.clip(hsv[..., 2] + value, 0, 255)
        return sample | {"image": cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)}

    def _flip(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self._rng.random() < 0.5:
            return sample
        return {
            "image": np.ascontiguousarray(sample["image"][:, ::-1]),
            "boxes": SIDE - sample["boxes"][:, [2, 1, 0, 3]] * [1, -1, 1, -1],
            "polygons": [[SIDE, 0] - each * [1, -1] for each in sample["polygons"]],
        }

    def _mixup(self, sample: dict[str, Any]) -> dict[str, Any]:
        self._remember(self._samples, sample, 20)
        partner = copy.deepcopy(self._samples[self._rng.integers(len(self._samples))])
        if self._rng.random() < 0.5:
            partner = self._flip(partner)
        blend = 0.5 * sample["image"].astype(np.float32) + 0.5 * partner["image"].astype(np.float32)
        return {
            "image": blend.astype(np.uint8),
            "boxes": np.concatenate([sample["boxes"], partner["boxes"]]),
            "polygons": sample["polygons"] + partner["polygons"],
        }

    def _masks(self, sample: dict[str, Any]) -> np.ndarray:
        masks = [
            coco_masks.decode(coco_masks.frPyObjects([each.ravel()], SIDE, SIDE))[..., 0]
            for each in sample["polygons"]
        ]
        full = np.array(masks, np.uint8).reshape(-1, SIDE, SIDE)
        for mask in full:
            rows, columns = np.nonzero(mask)
            rows.mean() if rows.size else 0, columns.mean() if columns.size else 0
        return full[:, 2::4, 2::4]


def _ours(data: PhotographLike, config: TrainConfig, *, stage: int, budget_mib: int) -> Any:
    """A renderer and a function that makes the sample of the next draft."""
    config = replace(config, data=replace(config.data, num_workers=0, cache_mib=budget_mib))
    positions = np.arange(len(data))
    renderer = Renderer(data, positions, config)
    first_epoch = 0 if stage == 0 else config.schedule.epochs - 1
    drafts = (
        draft
        for epoch in range(first_epoch, 10**6)
        for batch in Sampler(positions, config).batches(epoch)
        for draft in batch
    )

    def make() -> None:
        batch_of([renderer.render(next(drafts))])

    return renderer, make


def _measure(folder: Path, model: str, rounds: int) -> None:
    config = recipe(model)
    data = PhotographLike(folder, with_outlines=config.model.task == "instance")
    published = PublishedArithmetic(data)
    order = iter(np.random.default_rng(0).integers(len(data), size=10**6).tolist())
    renderer, cached = _ours(data, config, stage=0, budget_mib=config.data.cache_mib)
    ways: dict[str, Callable[[], object]] = {
        "plain sample": _ours(data, config, stage=1, budget_mib=config.data.cache_mib)[1],
        "cached mixing": cached,
        "nothing remembered": _ours(data, config, stage=0, budget_mib=1)[1],
        "published arithmetic": lambda: published.sample(next(order)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP + rounds):
        for name, way in ways.items():
            if number < WARM_UP and name in ("plain sample", "nothing remembered"):
                continue
            begun = thread_time()
            way()
            if number >= WARM_UP:
                times[name].append(thread_time() - begun)
    plain = np.mean(times["plain sample"])
    print(f"\n{model}: {rounds} samples each\n{'':22}{'mean ms':>9}{'median ms':>11}{'ratio':>8}")
    for name, taken in times.items():
        mean, median = np.mean(taken) * 1e3, np.median(taken) * 1e3
        print(f"{name:22}{mean:9.2f}{median:11.2f}{np.mean(taken) / plain:8.2f}")
    held = renderer.num_bytes / MIB
    print(f"remembered: {held:.0f} of at most {config.data.cache_mib} MiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(0)
    with TemporaryDirectory() as folder:
        for model in ("rtmdet-s", "rtmdet-ins-s"):
            _measure(Path(folder), model, rounds)


if __name__ == "__main__":
    main()
