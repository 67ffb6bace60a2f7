"""Mistakes added up: by kind and size, by class, and by image, where the worst come first."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.run_lengths import expanded
from training.evaluation.instances import SIZES, Found
from training.evaluation.mistakes import Judged, Outcome, Verdict, sizes_of

#: What a missed instance costs an image. A wrong detection costs its score, for a mistake made
#: with confidence is the worse one; a duplicate half, as a user sees at least the right thing.
MISS_COST = 1.0
DUPLICATE_COST = 0.5

_Ints = NDArray[np.int64]


class Totals(NamedTuple):
    """How often each verdict and each outcome occurs, crowds and weak detections left out.

    `verdicts` and `outcomes` int64 [groups, kinds], in the order of `Verdict` and `Outcome` from
    0 on. `Totals.verdicts.sum()` is the number of detections that count, `Totals.outcomes.sum()`
    that of instances to be found.
    """

    verdicts: _Ints
    outcomes: _Ints


def totals_by_size(judged: Judged) -> Totals:
    """Groups are those of `SIZES`.

    A detection belongs to the size of the instance that it is about; a false one to its own.
    """
    instance_sizes = sizes_of(judged.truth.areas)
    sizes = np.append(instance_sizes, 0)[judged.instances]
    false = np.flatnonzero(judged.verdicts == Verdict.FALSE)
    sizes[false] = sizes_of(_areas(judged.found, false))
    return _totals(judged, sizes, instance_sizes, len(SIZES))


def totals_by_class(judged: Judged, num_classes: int) -> Totals:
    """Groups are the classes."""
    return _totals(judged, judged.found.labels, judged.truth.labels, num_classes)


def totals_by_image(judged: Judged) -> Totals:
    """Groups are the images."""
    truth, found = judged.truth, judged.found
    return _totals(judged, found.images, truth.images, len(truth.image_sizes))


def image_costs(judged: Judged) -> NDArray[np.float64]:
    """What the mistakes in each of the n images cost together, by the weights above; 0 for none."""
    num_images = len(judged.truth.image_sizes)
    costs = np.zeros(len(Verdict))
    costs[[Verdict.CONFUSED, Verdict.POORLY_PLACED, Verdict.FALSE]] = 1
    costs[Verdict.DUPLICATE] = DUPLICATE_COST
    counted = judged.verdicts >= 0
    weights = costs[judged.verdicts[counted]] * judged.found.scores[counted]
    missed = judged.truth.images[judged.outcomes > Outcome.FOUND]
    return (
        np.bincount(judged.found.images[counted], weights, num_images)
        + np.bincount(missed, minlength=num_images) * MISS_COST
    )


def worst_images(judged: Judged, most: int) -> list[int]:
    """At most so many images with mistakes, the costliest first; of equals the earlier."""
    costs = image_costs(judged)
    order = np.argsort(-costs, kind="stable")[:most]
    return order[costs[order] > 0].tolist()


def _totals(judged: Judged, of_found: _Ints, of_truth: _Ints, num_groups: int) -> Totals:
    def counts(groups: _Ints, kinds: NDArray[np.int8], num_kinds: int) -> _Ints:
        counted = kinds >= 0
        places = groups[counted] * num_kinds + kinds[counted]
        return np.bincount(places, minlength=num_groups * num_kinds).reshape(num_groups, num_kinds)

    return Totals(
        counts(of_found, judged.verdicts, Verdict.FALSE + 1),
        counts(of_truth, judged.outcomes, Outcome.POORLY_PLACED + 1),
    )


def _areas(found: Found, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    if found.masks is not None:
        return np.array([expanded(found.masks[row])[1::2].sum() for row in rows], np.float64)
    boxes = found.boxes[rows].astype(np.float64)
    sides = boxes[:, 2:4] if boxes.shape[1] == 5 else boxes[:, 2:] - boxes[:, :2]
    return sides.prod(axis=1)
