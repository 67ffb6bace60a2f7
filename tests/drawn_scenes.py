"""An in-memory data set of filled shapes on dark ground; an instance's label is its colour."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.config import StageConfig, TrainConfig
from training.data.annotations import Annotations, Outline
from training.recipes import recipe

SIZES = ((96, 128), (120, 90), (72, 72), (150, 200), (80, 110), (100, 100))

GROUND = 20

#: Saturated colours that stay apart from one another after halving: BGR, by label.
COLOURS = np.array([(0, 0, 250), (0, 250, 0), (250, 0, 0), (0, 250, 250), (250, 0, 250)])

_MODELS = {"detect": "rtmdet-tiny", "instance": "rtmdet-ins-tiny", "rotated": "rtmdet-r-tiny-100e"}
_FINE = 8


def scenes_config(task: str, *, stage: StageConfig | None = None, **data: Any) -> TrainConfig:
    """The published recipe at a small size; `stage` stands in for both of its stages."""
    base = recipe(_MODELS[task])
    options = {"batch_size": 4, "num_workers": 0, "cache_mib": 8, **data}
    stages = base.stages if stage is None else (stage,)
    return replace(
        base,
        model=replace(base.model, input_size=(128, 160)),
        data=replace(base.data, **options),
        stages=stages,
    )


class DrawnScenes:
    """Each image holds one to three shapes, none in those that are `empty`.

    Upright rectangles, turned ones for rotated sets, triangles for masks.
    """

    classes = ("red", "green", "blue", "yellow", "storage-tank")
    are_upright = False

    def __init__(
        self, folder: Path, task: str, num_images: int = 12, *, empty: tuple[int, ...] = ()
    ) -> None:
        self.folder = folder
        self.sizes = [SIZES[index % len(SIZES)] for index in range(num_images)]
        self.found: list[Annotations] = []
        for index, size in enumerate(self.sizes):
            image, annotations = _scene(index, size, task, is_empty=index in empty)
            cv2.imwrite(str(self.image_path(index)), image)
            self.found.append(annotations)

    def __len__(self) -> int:
        return len(self.sizes)

    def image_path(self, position: int) -> Path:
        return self.folder / f"{position:04}.png"

    def image_size(self, position: int) -> tuple[int, int]:
        return self.sizes[position]

    def annotations(self, position: int) -> Annotations:
        return self.found[position]


def coloured(image: np.ndarray, label: int) -> np.ndarray:
    """Bool [h, w]: where at least half of what is seen is that colour on the dark ground."""
    towards = COLOURS[label] - GROUND
    offset = image.astype(np.float64) - GROUND
    share = offset @ towards / (towards @ towards)
    residual = np.linalg.norm(offset - share[..., None] * towards, axis=-1)
    return (share > 0.5) & (residual < 60)


def _scene(
    index: int, size: tuple[int, int], task: str, *, is_empty: bool
) -> tuple[np.ndarray, Annotations]:
    rng = np.random.default_rng(index)
    height, width = size
    # Drawn finely and averaged, so that edges lie where the annotations say.
    image = np.full((height * _FINE, width * _FINE, 3), GROUND, np.uint8)
    boxes, labels, outlines = [], [], []
    quarters = [(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)]
    for number in range(0 if is_empty else 1 + index % 3):
        x, y = quarters[(index + number) % 4]
        centre = np.array([x * width, y * height])
        sides = rng.uniform(0.22, 0.36, 2) * min(height, width)
        angle = float(rng.uniform(-1.5, 1.5)) if task == "rotated" else 0.0
        corners = _corners(centre, sides, angle)[: 3 if task == "instance" else 4]
        label = (index + number) % len(COLOURS)
        fixed = np.round(corners * _FINE * 256 - 128).astype(np.int32)
        cv2.fillConvexPoly(image, fixed, COLOURS[label].tolist(), shift=8)
        upright = np.concatenate([corners.min(0), corners.max(0)])
        boxes.append([*centre, *sides, angle] if task == "rotated" else upright)
        labels.append(label)
        outlines.append(Outline(polygons=(corners.astype(np.float32),)))
    columns = 5 if task == "rotated" else 4
    annotations = Annotations(
        np.array(boxes, np.float32).reshape(-1, columns),
        np.array(labels, np.int64),
        tuple(outlines) if task == "instance" else None,
    )
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), annotations


def _corners(centre: np.ndarray, sides: np.ndarray, angle: float) -> np.ndarray:
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides / 2
    cos, sin = np.cos(angle), np.sin(angle)
    return centre + half @ np.array([[cos, sin], [-sin, cos]])
