"""What was found, compared with what is annotated: once, for all figures and all curves.

Boxes and masks are compared as COCO does, rotated boxes as DOTA does. Torch-free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from model.config import Task
from training.evaluation.coco_comparison import CocoKind, CocoTables, coco_tables
from training.evaluation.instances import Found, Truth
from training.evaluation.rotated_matching import RankedDetections, ranked_by_label

#: What is compared; each name leads its metrics' names.
Kind = Literal["box", "mask", "rotated"]

_COCO_KINDS: Mapping[Task, tuple[CocoKind, ...]] = {
    "detect": ("box",),
    "instance": ("box", "mask"),
    "rotated": (),
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Of every label of which there is an instance to be found, all that figures are made of.

    `coco` has boxes and, of instance models, masks; `rotated` is None but for rotated models.
    """

    num_images: int
    coco: Mapping[CocoKind, Mapping[int, CocoTables]]
    rotated: Mapping[int, RankedDetections] | None


def compare(task: Task, truth: Truth, found: Found, num_classes: int) -> Comparison:
    """Compare all there is of the task."""
    coco: dict[CocoKind, Mapping[int, CocoTables]] = {
        kind: coco_tables(kind, truth, found, num_classes) for kind in _COCO_KINDS[task]
    }
    rotated = ranked_by_label(truth, found, num_classes) if task == "rotated" else None
    return Comparison(len(truth.image_sizes), coco, rotated)
