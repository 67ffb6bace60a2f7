"""A synthetic data set on disk, in any layout that training reads: shapes, as `scene` draws them.

Images are JPEG files, `train` and `val` never share a scene, and the folder appears as a whole.
The same plan gives the same files, however many processes work on them. What a seed gives must
not change: published figures are of such sets (`SCENES_VERSION`).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from training.data.formats.layouts import Split
from training.data.synthetic.outlines import SHAPE_NAMES
from training.data.synthetic.production import Draw, SceneJob, produced
from training.data.synthetic.scene_records import (
    CATEGORIES,
    ScenesWriter,
    ShapesLayout,
    scenes_writer,
)
from training.data.synthetic.scenes import Scene, scene
from training.data.writing.base import new_folder, write_lines

#: Called with the number of scenes that are written, and of all.
Progress = Callable[[int, int], None]

#: Counts what a seed has ever given.
SCENES_VERSION = 1

#: Scenes that belong to one split of one seed alone; hence the size of the largest split.
_MAX_SPLIT = 10**6
_MAX_SEED = 2**40

_OF_COCO = {
    "segmentation": "the visible part of each shape; bbox is the tightest around it",
    "rotated_bbox": "cx, cy, w, h in pixels and the angle in radians, clockwise positive, "
    "around the whole shape, hidden parts too",
}
_OF_CORNERS = {"corners": "of the rotated box around the whole shape, hidden parts too"}

#: What the annotations of a layout mean, which its files cannot say themselves.
_MEANINGS: dict[ShapesLayout, dict[str, str]] = {
    "all": _OF_COCO,
    "coco": _OF_COCO,
    "dota": _OF_CORNERS,
    "yolo": {"boxes": "the tightest around the visible part of each shape"},
    "yolo-polygons": {"polygons": "the whole shape, hidden parts too, clipped to the image"},
    "yolo-oriented": _OF_CORNERS,
}

_SPLITS: tuple[Split, ...] = ("train", "val")
_SIZES = (32, 2048)


@dataclass(frozen=True, kw_only=True)
class ShapesPlan:
    """What to write: images of `size` x `size` pixels, and annotations in a layout.

    Counts of images are 0 to 1,000,000 a split, not both 0. Raises ValueError for what makes no
    set.
    """

    num_train: int
    num_val: int
    size: int = 640
    seed: int = 0
    layout: ShapesLayout = "all"
    draw: Draw = scene

    def __post_init__(self) -> None:
        counts = (self.num_train, self.num_val)
        if not all(0 <= count <= _MAX_SPLIT for count in counts) or not sum(counts):
            raise ValueError(
                f"a set has 1 to {_MAX_SPLIT:,} images a split, not {self.num_train} to train "
                f"and {self.num_val} to validate"
            )
        if self.layout not in get_args(ShapesLayout):
            known = ", ".join(get_args(ShapesLayout))
            raise ValueError(f"unknown layout '{self.layout}'; there are: {known}")
        smallest, largest = _SIZES
        if not smallest <= self.size <= largest:
            raise ValueError(f"images have {smallest} to {largest} pixels a side, not {self.size}")
        if not 0 <= self.seed < _MAX_SEED:
            raise ValueError(f"seeds are whole numbers from 0, below {_MAX_SEED:,}")


def write_shapes(
    folder: Path,
    plan: ShapesPlan,
    *,
    jobs: int = 1,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Write the data set of `plan` into the new folder `folder`, in `jobs` processes.

    Raises ValueError if the folder holds something already, OSError where it cannot be written.
    Either way, and if it is interrupted, nothing is left of it.
    """
    with new_folder(folder) as part:
        writer = scenes_writer(plan.layout, part)
        total = plan.num_train + plan.num_val
        # Closed before the folder is removed, should anything go wrong: nobody writes into it then.
        with closing(produced(_jobs(plan, writer), jobs)) as records:
            for done, record in enumerate(records, start=1):
                writer.add(record)
                progress(done, total)
        writer.finish()
        write_lines(part / "shapes.json", [json.dumps(_made_how(plan), indent=2)])


def split_scenes(
    split: Split, count: int, *, size: int, seed: int, draw: Draw = scene
) -> Iterator[Scene]:
    """The first `count` scenes of a split of the set with that seed, `size` pixels a side."""
    return (draw(each, size) for each in _seeds(split, count, seed))


def _seeds(split: Split, count: int, seed: int) -> range:
    first = (seed * len(_SPLITS) + _SPLITS.index(split)) * _MAX_SPLIT
    return range(first, first + count)


def _jobs(plan: ShapesPlan, writer: ScenesWriter) -> Iterator[SceneJob]:
    for split, count in zip(_SPLITS, (plan.num_train, plan.num_val), strict=True):
        folder = writer.image_folder(split)
        if count:
            folder.mkdir(parents=True)
        for number, seed in enumerate(_seeds(split, count, plan.seed), start=1):
            path = folder / f"{number:06d}.jpg"
            yield SceneJob(split, path, seed, plan.size, plan.layout, plan.draw)


def _made_how(plan: ShapesPlan) -> dict[str, object]:
    command = (
        f"rtmdet data shapes OUT --train {plan.num_train} --val {plan.num_val} --size {plan.size} "
        f"--seed {plan.seed} --layout {plan.layout}"
    )
    return {
        "made_by": command,
        "program": f"rtmdet-serving {version('rtmdet-serving')}",
        "scenes_version": SCENES_VERSION,
        "classes": [category.name for category in CATEGORIES],
        **_MEANINGS[plan.layout],
    }


assert tuple(category.name for category in CATEGORIES) == SHAPE_NAMES
