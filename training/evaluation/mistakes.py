"""What went wrong where: every detection and every instance of an evaluation is judged.

A detection is right if it overlaps an instance of its class enough that no stronger detection
took, as in COCO's average precision. The others are told apart by what they overlap. No verdict
depends on weaker detections, so a score threshold only leaves detections out. Torch-free.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.config import Task
from training.evaluation.instances import SIZES, Found, Truth
from training.evaluation.overlaps import Pairs, overlapping_pairs

#: A detection of the right class that overlaps less than this is not near its instance at all.
LEAST_OVERLAP = 0.1

#: From which areas in pixels on instances are medium and large. On such a border COCO counts an
#: instance twice; here it has one size, the larger.
_SIZE_LIMITS = [smallest for smallest, _ in SIZES.values()][1:]

#: The thresholds that `best_threshold` chooses from: what one would write.
THRESHOLDS = np.arange(100) / 100


class Verdict(IntEnum):
    """What a detection is. The first that applies, from RIGHT on."""

    WEAK = -2  # below the score threshold: as if it were not there
    NEITHER = -1  # on a crowd or a difficult instance of its class
    RIGHT = 0
    DUPLICATE = 1  # on an instance of its class that a stronger detection took
    CONFUSED = 2  # on an instance of another class
    POORLY_PLACED = 3  # near an instance of its class
    FALSE = 4  # nothing is there


class Outcome(IntEnum):
    """What became of an instance."""

    NEITHER = -1  # a crowd or difficult
    FOUND = 0
    MISSED = 1  # no detection has to do with it
    CONFUSED = 2  # missed, and detected as another class
    POORLY_PLACED = 3  # missed, and a detection of its class is near


@dataclass(frozen=True, eq=False)
class Judged:
    """The m detections and t instances of `found` and `truth`, judged.

    `verdicts` int8 [m] of `Verdict`. `instances` int64 [m]: the row of the instance that the
    verdict is about, -1 for none, and `overlaps` float64 [m] with it. `outcomes` int8 [t] of
    `Outcome`. `iou` is the overlap from which a detection is on an instance.
    """

    truth: Truth
    found: Found
    score_threshold: float
    iou: float
    verdicts: NDArray[np.int8]
    instances: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    outcomes: NDArray[np.int8]

    def at_threshold(self, score_threshold: float) -> "Judged":
        """The same with detections below another threshold left out, which must not be lower."""
        assert score_threshold >= self.score_threshold
        verdicts = self.verdicts.copy()
        verdicts[self.found.scores < score_threshold] = Verdict.WEAK
        return Judged(
            truth=self.truth,
            found=self.found,
            score_threshold=score_threshold,
            iou=self.iou,
            verdicts=verdicts,
            instances=self.instances,
            overlaps=self.overlaps,
            outcomes=_outcomes(self.truth, verdicts, self.instances),
        )

    def confusion(self, num_classes: int) -> NDArray[np.int64]:
        """[classes + 1, classes + 1]: rows are what is there, columns what was detected.

        The last row is the background: detections that are duplicates, poorly placed or false.
        The last column holds missed instances that were not confused. So a column adds up to the
        detections of its class; and the diagonal and the last column to the instances of theirs,
        without the confused ones.
        """
        background = num_classes
        counted = np.flatnonzero(self.verdicts >= 0)
        on_it = np.isin(self.verdicts[counted], (Verdict.RIGHT, Verdict.CONFUSED))
        there = np.full(len(counted), background)
        there[on_it] = self.truth.labels[self.instances[counted[on_it]]]
        missed = np.isin(self.outcomes, (Outcome.MISSED, Outcome.POORLY_PLACED))
        rows = np.append(there, self.truth.labels[missed])
        columns = np.append(self.found.labels[counted], np.full(missed.sum(), background))
        side = num_classes + 1
        return np.bincount(rows * side + columns, minlength=side**2).reshape(side, side)


def judged(
    task: Task, truth: Truth, found: Found, *, score_threshold: float = 0.0, iou: float = 0.5
) -> Judged:
    """Judge detections from `score_threshold` on, by masks, rotated boxes or boxes.

    Raises ValueError unless `iou` lies above `LEAST_OVERLAP` and at most at 1.
    """
    if not LEAST_OVERLAP < iou <= 1:
        raise ValueError(f"an overlap of {iou} is none from which on detections count; say 0.5")
    strong = found.scores >= score_threshold
    pairs = overlapping_pairs(task, truth, found, least=LEAST_OVERLAP)
    pairs = pairs.where(strong[pairs.detections])
    same = found.labels[pairs.detections] == truth.labels[pairs.instances]
    wanted = ~truth.ignored[pairs.instances]
    near = pairs.overlaps >= iou

    verdicts = np.full(len(found), Verdict.FALSE, np.int8)
    instances = np.full(len(found), -1, np.int64)
    overlaps = np.zeros(len(found))
    # The last to be written stands, so the first that applies comes last.
    right = _taken(pairs.where(same & wanted & near), found)
    for verdict, those in (
        (Verdict.POORLY_PLACED, pairs.where(same & wanted & ~near)),
        (Verdict.CONFUSED, pairs.where(~same & wanted & near)),
        (Verdict.DUPLICATE, pairs.where(same & wanted & near)),
        (Verdict.NEITHER, pairs.where(same & ~wanted & near)),
        (Verdict.RIGHT, right),
    ):
        best = those.where(np.diff(those.detections, prepend=-1) > 0)
        verdicts[best.detections] = verdict
        instances[best.detections] = best.instances
        overlaps[best.detections] = best.overlaps
    verdicts[~strong] = Verdict.WEAK
    outcomes = _outcomes(truth, verdicts, instances)
    return Judged(truth, found, score_threshold, iou, verdicts, instances, overlaps, outcomes)


class F1Curve(NamedTuple):
    """Shares (0 to 1) at each of the thresholds [n], all classes together."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def f1_curve(all_judged: Judged) -> F1Curve:
    """Precision, recall and their harmonic mean at `THRESHOLDS`, of detections judged at 0."""
    verdicts, scores = all_judged.verdicts, all_judged.found.scores
    counted = np.sort(scores[verdicts >= 0])
    right = np.sort(scores[verdicts == Verdict.RIGHT])
    # In float32 as scores are, so that a score that looks like a threshold is not below it.
    limits = THRESHOLDS.astype(scores.dtype)
    num_counted = len(counted) - np.searchsorted(counted, limits, "left")
    num_right = len(right) - np.searchsorted(right, limits, "left")
    num_wanted = int((~all_judged.truth.ignored).sum())
    return F1Curve(
        THRESHOLDS,
        num_right / np.maximum(num_counted, 1),
        num_right / max(num_wanted, 1),
        2 * num_right / np.maximum(num_counted + num_wanted, 1),
    )


def best_threshold(curve: F1Curve) -> float:
    """The threshold with the best F1 over all classes; of equal ones the middle one."""
    best = np.flatnonzero(curve.f1 == curve.f1.max())
    return float(curve.thresholds[best[len(best) // 2]])


def sizes_of(areas: NDArray[np.float64]) -> NDArray[np.intp]:
    """Places in `SIZES` of instances with those areas in pixels."""
    return np.searchsorted(_SIZE_LIMITS, areas, "right")


def _taken(pairs: Pairs, found: Found) -> Pairs:
    """The pairs that remain when the strongest detections choose first, each what it overlaps
    most of what is left.

    Computed for all images at once: every detection asks for its favourite, an instance keeps the
    strongest that asked, and the others ask for their next. As all instances prefer alike, this
    ends at the same pairs.
    """
    rank = np.empty(len(found), np.intp)
    rank[np.argsort(-found.scores, kind="stable")] = np.arange(len(found))
    while True:
        asks = np.flatnonzero(np.diff(pairs.detections, prepend=-1) > 0)
        by_strength = asks[np.lexsort((rank[pairs.detections[asks]], pairs.instances[asks]))]
        is_refused = np.diff(pairs.instances[by_strength], prepend=-1) == 0
        if not is_refused.any():
            is_asked = np.zeros(len(pairs.detections), np.bool_)
            is_asked[asks] = True
            return pairs.where(is_asked)
        keep = np.ones(len(pairs.detections), np.bool_)
        keep[by_strength[is_refused]] = False
        pairs = pairs.where(keep)


def _outcomes(
    truth: Truth, verdicts: NDArray[np.int8], instances: NDArray[np.int64]
) -> NDArray[np.int8]:
    outcomes = np.full(len(truth), Outcome.MISSED, np.int8)
    # Again the last to be written stands.
    for outcome, verdict in (
        (Outcome.POORLY_PLACED, Verdict.POORLY_PLACED),
        (Outcome.CONFUSED, Verdict.CONFUSED),
        (Outcome.FOUND, Verdict.RIGHT),
    ):
        outcomes[instances[verdicts == verdict]] = outcome
    outcomes[truth.ignored] = Outcome.NEITHER
    return outcomes
