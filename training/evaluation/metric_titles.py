"""What people call the metrics, wherever they are shown."""

from collections.abc import Iterable, Sequence
from typing import get_args

from training.evaluation.comparison import Kind
from training.evaluation.instances import SIZES

#: Of all sizes together: metrics' names after that of their kind, and their titles, in order.
TITLES: dict[str, str] = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap50_voc07": "AP50 (VOC 2007)",
    "ar1": "AR@1",
    "ar10": "AR@10",
    "ar100": "AR@100",
}

#: The same of one size.
TITLES_BY_SIZE: dict[str, str] = {
    f"{name}_{size}": f"{name.upper()}, {size}" for name in ("ap", "ar") for size in SIZES
}


def kinds_of(names: Iterable[str]) -> Sequence[str]:
    """ "box", "mask", "rotated": the kinds of which there are metrics of these names, in order."""
    measured = {name.partition("_")[0] for name in names}
    return [kind for kind in get_args(Kind) if kind in measured]
